"""Images and drawings inside a page: data URIs, and SVG elements whose style is in the page's style sheet."""

from __future__ import annotations

import base64
import re
import struct
import xml.etree.ElementTree as ET

from markupsafe import Markup

_SVG = "http://www.w3.org/2000/svg"
_STYLE = re.compile(r"[\w\s:;#.,%()+-]*")
_PNG = b"\x89PNG\r\n\x1a\n"
FEW_PIXELS = 100
"""Images narrower than this are enlarged without smoothing, so that their pixels are seen."""


class Styles:
    """Classes in place of style attributes, which the page's security policy forbids."""

    def __init__(self) -> None:
        self._classes: dict[str, str] = {}

    def without_attributes(self, svg: str) -> Markup:
        """Return an <svg> element with classes in place of its style attributes, without scripts and foreign parts."""
        ET.register_namespace("", _SVG)
        root = ET.fromstring(svg)
        for parent in root.iter():
            for child in list(parent):
                if child.tag.rpartition("}")[2] in ("script", "foreignObject", "style"):
                    parent.remove(child)
        for element in root.iter():
            for key in [key for key in element.attrib if key.startswith("on")]:
                del element.attrib[key]
            style = element.attrib.pop("style", "")
            if style and _STYLE.fullmatch(style):
                element.set("class", self._classes.setdefault(style, f"s{len(self._classes)}"))
        return Markup(ET.tostring(root, encoding="unicode"))

    @property
    def sheet(self) -> str:
        return "\n".join(f".{name}{{{style}}}" for style, name in self._classes.items())


def data_uri(content: bytes, media_type: str = "image/png") -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def png_size(content: bytes) -> tuple[int, int]:
    """Return width and height in pixels; (0, 0) for other files."""
    if not content.startswith(_PNG) or len(content) < 24:
        return 0, 0
    width, height = struct.unpack(">II", content[16:24])
    return width, height
