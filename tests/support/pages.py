"""Pages in a real browser that may load nothing, and a report with everything that a page can show."""

import io
import shutil
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
from PIL import Image
from playwright.sync_api import sync_playwright

from robharness.findings import finding
from robharness.report.details import Environment, GalleryExample, PluginFigure, Published
from robharness.report.records import Numbers
from robharness.report.runs import over_runs
from robharness.specs.records import MetricResult
from synthetic_reports import invented

SCRIPTED = b"""<svg xmlns="http://www.w3.org/2000/svg" width="200" height="100" onload="top.hacked = 1">
<script>top.hacked = 1; fetch("https://example.org/")</script>
<image href="https://example.org/x.png" width="9" height="9"/>
<text x="10" y="50">drawn by a plugin</text></svg>"""

CONTRAST = """() => {
  const channel = (c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const parts = (color) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const behind = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const found = parts(getComputedStyle(each).backgroundColor);
      if (found[3] === 255) return found;
    }
  };
  const seen = new Map(), walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = walker.nextNode());) {
    const element = node.parentElement;
    if (!node.textContent.trim() || !element.getClientRects().length || element.closest("svg, script")) continue;
    const style = getComputedStyle(element), [a, b] = [light(parts(style.color)), light(behind(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const name = `${element.tagName}.${element.className} ${style.color}`;
    if (!(seen.get(name) < ratio)) seen.set(name, ratio);
  }
  return [...seen];
}"""
"""JavaScript that returns the contrast of each kind of text with what is behind it."""


@contextmanager
def launched():
    """Start Chromium for the tests of a module."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def opened(browser, path, **options):
    """Open a file as a page, and check at the end that it asked for nothing and that its script did not complain."""
    context = browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | options))
    page, heard = context.new_page(), []
    page.on("console", lambda message: heard.append(message.text))
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.on("dialog", lambda dialog: heard.append(dialog.message))
    page.on("request", lambda request: request.url.startswith(("data:", path.as_uri())) or heard.append(request.url))
    page.goto(path.as_uri())
    yield page
    context.close()
    assert heard == []


def png(seed, side=12):
    pixels = np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def example(number, model, perturbation):
    return GalleryExample(
        model=model, perturbation=perturbation, kind="attack", key="", example=f"photo-{number}.jpg", label=number % 2,
        clean_prediction=number % 2, clean_confidence=0.9, prediction=(number + number // 2) % 2, confidence=0.6,
        margin=[1.5, 0.25, -0.5, -3.0][number % 4], fooled=number % 4 > 1, clean=png(number),
        perturbed=png(number + 50),
        perturbation_image=png(number + 100), magnification=63.75, size=0.0039 if number % 2 else None,
    )  # fmt: skip


def everything():
    """Return an incomplete report with runs over seeds, published numbers, a gallery, findings and provenance."""
    runs = {"Lite1 seed 0": "Lite1", "Lite1 seed 1": "Lite1"}
    report = invented(["Lite0", *runs], severities=(1,), runs=runs)
    kept = [cell for cell in report.cells if cell.group in (None, "noise")]
    for at in (3, 4):
        kept[at] = replace(kept[at], complete=False, numbers=Numbers(n=0), calibration=None, classes=None)
    kept[5] = replace(kept[5], complete=False, numbers=replace(kept[5].numbers, n=412))
    source = "the authors' README"
    for at, value in enumerate((0.751, 0.5)):
        kept[at] = replace(kept[at], published=(Published(source=source, value=value),))
    numbers = {}
    for cell in kept:
        if cell.model in runs:
            numbers.setdefault(cell.perturbation, []).append(cell.numbers)
    shown = [(model, name) for model in ("Lite0", "Lite1 seed 0") for name in ("fgsm(linf, 1/255)", "shot_noise(1)")]
    return replace(
        report,
        title="Three networks under weak attacks",
        complete=False,
        cells=tuple(kept),
        runs=tuple(over_runs("Lite1", name, 2, some) for name, some in numbers.items()),
        metrics={"toys/uniformity": {model: MetricResult(value=-2.5 - at) for at, model in enumerate(report.models)}},
        answer=("Lite0 loses 24 % of its accuracy, Lite1 27 %.", "Under noise Lite1 is right more often."),
        command="robharness run suite.yaml --store mine",
        published_sources=(source,),
        findings=(
            finding("cell-failed", "RuntimeError: size mismatch. Try: ls", subject="Lite0, fgsm(linf, 1/255)"),
            finding("few-examples", "slopes come from 20 examples", hint="use the intervals"),
            finding("state-restored", "it changed cudnn.benchmark, which was put back", subject="Lite0"),
        ),
        environments=(
            Environment(facts={"device": "cpu", "threads": 2, "versions": {"torch": "2.6.0"}},
                        cells=tuple(cell.key for cell in kept[:20])),
            Environment(facts={"device": "cuda:0", "folded": True, "rows": [64, 32]},
                        cells=tuple(cell.key for cell in kept[20:])),
        ),
        identities={cell.key: {"model": {"name": cell.model, "weights": "5f2c"}, "seed": 0} for cell in kept},
        gallery=tuple(example(number, *shown[number // 2]) for number in range(8)),
        plugin_figures=(
            PluginFigure(name="map.svg", title="Map", media_type="image/svg+xml", content=SCRIPTED),
            PluginFigure(name="a.pdf", title="A", media_type="", content=b"", left_out="a page shows PNG and SVG"),
        ),
    )  # fmt: skip
