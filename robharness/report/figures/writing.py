"""Drawings as SVG in a page, and as files."""

from __future__ import annotations

import gc
import io
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG

from robharness.report.figures.figure import Figure
from robharness.text import printable

_SVG, _LINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_FONTS = "'DejaVu Sans', Verdana, Geneva, sans-serif"
_BLACK = "#000000"
_METADATA = {
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "png": {"Software": None},
}


def svg(figure: Figure) -> str:
    """Return the figure as an <svg> element for a page, which it does not change outside itself.

    The page's own style is Matplotlib's default, whatever the user's is. Ink is currentColor, text stays text, points
    have tooltips, and nothing is loaded. All ids begin with the figure's name.
    """
    with _page_style(figure.name), _uncollected():
        drawing = figure.draw()
        drawing.patch.set_visible(False)
        for axis in drawing.axes:
            axis.patch.set_visible(False)
        root = _parsed(_written(drawing, "svg"))
    _add_tooltips(root, getattr(drawing, "tooltips", {}))
    _make_inline(root, figure)
    return ET.tostring(root, encoding="unicode")


def save(found: Sequence[Figure], folder: Path, suffixes: Sequence[str] = (".pdf", ".svg")) -> list[Path]:
    """Write figures in Matplotlib's current style to files of these suffixes; return the files.

    The same numbers in the same style give the same bytes.
    folder: an existing folder.
    Raises OSError if a file cannot be written, ValueError if Matplotlib does not know a suffix.
    """
    from robharness.store.files import FileSystem

    files, written = FileSystem(), []
    for figure in found:
        drawing = figure.draw()
        for suffix in suffixes:
            with matplotlib.rc_context({"svg.hashsalt": figure.name}):
                content = _written(drawing, suffix.removeprefix("."))
            if suffix == ".svg":
                root = _parsed(content)
                _add_tooltips(root, getattr(drawing, "tooltips", {}))
                content = ET.tostring(root, encoding="utf-8", xml_declaration=True)
            path = folder / f"{figure.name}{suffix}"
            files.write(path, content)
            written.append(path)
    return written


@contextmanager
def _page_style(name: str) -> Iterator[None]:
    """Set Matplotlib's default style for a moment, and restore that of the user."""
    with matplotlib.rc_context():
        kept = {key: value for key, value in matplotlib.rcParamsDefault.items() if not key.startswith("backend")}
        dict.update(matplotlib.rcParams, kept | {"svg.fonttype": "none", "svg.hashsalt": name})  # checked already
        yield


@contextmanager
def _uncollected() -> Iterator[None]:
    """Pause the search for cycles of unused objects: a drawing is thousands of objects, none of them unused yet."""
    is_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if is_enabled:
            gc.enable()


def _written(drawing: Any, kind: str) -> bytes:
    """Return the content of a file, without a date or the versions of programs."""
    stream = io.BytesIO()
    if kind == "svg":
        engine = drawing.get_layout_engine()
        if engine is not None:  # once; `savefig` computes the layout twice, and draws all artists in between
            engine.execute(drawing)
            drawing.set_layout_engine("none")
        canvas: Any = FigureCanvasSVG(drawing)
        canvas.print_svg(stream, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    else:
        drawing.savefig(stream, format=kind, metadata=_METADATA.get(kind))
    return stream.getvalue()


def _parsed(content: bytes) -> ET.Element:
    ET.register_namespace("", _SVG)
    ET.register_namespace("xlink", _LINK)
    return ET.fromstring(content)


def _add_tooltips(root: ET.Element, tooltips: Mapping[str, Sequence[str]]) -> None:
    """Add a <title> to each point of the artists with tooltips."""
    for group in root.iter(f"{{{_SVG}}}g"):
        texts = tooltips.get(group.get("id", ""), ())
        marks = list(group.iter(f"{{{_SVG}}}use")) if texts else []
        for mark, text in zip(marks, texts, strict=False):
            ET.SubElement(mark, f"{{{_SVG}}}title").text = printable(text)


def _make_inline(root: ET.Element, figure: Figure) -> None:
    """Turn a document into an element for a page: own ids, no style for other elements, words for screen readers."""
    for parent in root.iter():
        for child in list(parent):
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                parent.remove(child)
    prefix = f"{figure.name}-"
    for element in root.iter():
        for key, value in list(element.attrib.items()):
            if key == "id":
                element.set(key, prefix + value)
            elif key == f"{{{_LINK}}}href":
                del element.attrib[key]
                element.set("href", f"#{prefix}{value[1:]}" if value.startswith("#") else value)
            elif "url(#" in value:
                element.set(key, value.replace("url(#", f"url(#{prefix}"))
            if key == "style":
                element.set(key, _inked(element.attrib["style"]))
    root.set("role", "img")
    root.set("id", figure.name + "-svg")
    root.set("fill", "currentColor")
    root.set("stroke-linejoin", "round")
    root.set("stroke-linecap", "butt")
    root.set("font-family", _FONTS)
    for key in ("width", "height"):
        root.set(key, f"{float(root.get(key, '0pt').removesuffix('pt')) * 96 / 72:.0f}")
    title = ET.Element(f"{{{_SVG}}}title", {"id": f"{prefix}title"})
    description = ET.Element(f"{{{_SVG}}}desc", {"id": f"{prefix}desc"})
    title.text, description.text = printable(figure.title, 500), printable(figure.alt, 2000)
    root.set("aria-labelledby", title.attrib["id"])
    root.set("aria-describedby", description.attrib["id"])
    root.insert(0, title)
    root.insert(1, description)


def _inked(style: str) -> str:
    """Return a style with the page's colour in place of black, and without the names of fonts."""
    kept = []
    for part in style.split(";"):
        name, _, value = part.strip().partition(": ")
        if name == "font":  # "10px 'DejaVu Sans', 'Bitstream Vera Sans', ..., sans-serif"
            words = value.partition("'")[0].split()
            size = next((word for word in words if word.endswith("px")), "10px")
            weight = next((word for word in words if word in ("bold", "italic") or word.isdigit()), "")
            kept.append(f"font-size: {size}")
            kept += [f"font-weight: {weight}"] if weight and weight != "italic" else []
        elif name in ("stroke", "fill") and value == _BLACK:
            kept.append(f"{name}: currentColor")
        elif name != "font-family" and name:
            kept.append(f"{name}: {value}")
    return "; ".join(kept)
