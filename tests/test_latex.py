"""LaTeX tables: compiled by pdfLaTeX and read back from the PDF, in the layouts of the paper's tables."""

import re
import subprocess
import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from robharness.report.details import Published
from robharness.report.renderers import latex
from robharness.text import latex as escaped
from synthetic_reports import cell, gaps, invented, of_the_paper, report, table_6, with_gains

PAPER = yaml.safe_load((Path(__file__).parent / "paper" / "tables.yaml").read_text())
HOSTILE = [
    "\\input{/etc/passwd}", "\\write18{touch pwned}", "100% $x^2$ {a}_b #1 & ~c ^^M ^^5cend", "[16] TCLR", "*star", "%",
    "\\", "}}}{", "\n\\end{document}", "a--b ``q'' \"d\" <t> |p| it's", "\u65e5\u672c \u05e2\u05d1 \U0001f600",
    "\x1b[31mred\u202e", "x" * 10_000, "\u00dcn\u00efc\u00f6de \u0141\u00f3d\u017a \u00e6\u00df \u03b1\u03a9 \u2264",
    "\\begin{tabular}", "\\\\[3cm]", "&&&", "a\u0301\u0301\u0301b", "-", "\\def\\x{\\x}\\x",
]  # fmt: skip


def attacks(number):
    table = PAPER[f"table{number}"]
    return of_the_paper(number, {name.split("/")[-1]: row for name, row in table["rows"].items()}, table["columns"])


def with_gaps(found):
    start, end, *others = found.models[1], found.models[0], *found.models[2:]
    return replace(found, gap=(start, end), gaps_closed=gaps(found.cells, start, end, others))


def with_published(found, source):
    """Return the report with the numbers of one model published, half a point above ours."""
    cells = [
        replace(each, published=(Published(source=source, value=each.numbers.accuracy + 0.005),))
        if each.model == "SwAV"
        else each
        for each in found.cells
    ]
    return replace(found, cells=tuple(cells), published_sources=(source,))


def of_table_5():
    """Return a report of Table 5 with its gains, and with two published numbers of RoCL."""
    found, bases = attacks(5), {model: row["base"] for model, row in PAPER["table5"]["rows"].items() if "base" in row}
    published = {"clean": [("the paper", 0.86)],
                 "AutoAttack(linf, 8/255)": [("the paper", 0.408), ("a rerun", 0.261)]}  # fmt: skip
    cells = [
        replace(each, published=tuple(Published(source=source, value=value) for source, value in
                                      (published.get(each.perturbation, []) if each.model == "RoCL" else [])))
        for each in found.cells
    ]  # fmt: skip
    return with_gains(replace(found, cells=tuple(cells), published_sources=("the paper", "a rerun")), bases)


def hostile():
    cells = []
    for label in HOSTILE:
        cells.append(cell(label, "clean", 0.8, 0.8))
        cells += [cell(label, f"{text}(linf, 1/255)", 0.8, 0.31, norm="linf", eps="1/255", title=f"{text}(linf)")
                  for text in HOSTILE[:3]]  # fmt: skip
    return report(
        cells, title=HOSTILE[0] + HOSTILE[2], suite="\\evil}{", data=HOSTILE[2], published_sources=(HOSTILE[1],)
    )


@pytest.fixture(scope="module")
def reports():
    return {
        "one": with_published(attacks(1), "the paper, Table 1"),
        "two": attacks(2),
        "four": with_gaps(attacks(4)),
        "five": of_table_5(),
        "both": with_gains(with_gaps(attacks(4)), {"Recall strategy": "Precision strategy"}),
        "six": table_6(PAPER["table6"]["rows"], PAPER["table6"]["columns"]),
        "eight": with_gaps(attacks(8)),
        "wide": invented(["A", "m1", "m2", *map("model {}".format, range(18))], runs={"m1": "m", "m2": "m"},
                         severities=(1,), details=False),
        "hostile": hostile(),
    }  # fmt: skip


@pytest.fixture(scope="module")
def pages(reports, tmp_path_factory):
    """The lines of each report's pages, and the log."""
    folder = tmp_path_factory.mktemp("tex")
    for name, found in reports.items():
        (folder / f"{name}.tex").write_text(latex.render(found))
    inputs = "\n".join(f"\\input{{{name}}}\\clearpage ENDOF{name}\\clearpage" for name in reports)
    (folder / "paper.tex").write_text(
        "\\documentclass{article}\\usepackage{booktabs}\\usepackage[margin=1cm]{geometry}\n"
        f"\\begin{{document}}\\listoftables\\clearpage ENDOFlist\\clearpage\n{inputs}\\end{{document}}\n"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "paper.tex"]
    for _ in range(2):  # the list of tables is read in the second run
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")
        assert done.returncode == 0, done.stdout[-2000:]
    text = subprocess.run(["pdftotext", "-layout", "paper.pdf", "-"], cwd=folder, capture_output=True, text=True,
                          check=True).stdout  # fmt: skip
    found, rest = {}, text
    for name in ["list", *reports]:
        found[name], _, rest = rest.partition(f"ENDOF{name}")
    assert not list(folder.glob("pwned*"))
    return {name: [" ".join(line.split()) for line in part.splitlines()] for name, part in found.items()}, done.stdout


def test_table_1_reads_as_in_the_paper(pages):
    lines = pages[0]["one"]
    assert "FGSM-ℓ∞ PGD-ℓ∞ PGD-ℓ2" in lines
    assert any(re.fullmatch(r"Model ϵ ?= ?0 ϵ = 0.25/255 ϵ = 0.5/255 ϵ = 1/255 ϵ = 0.25/255 ϵ = 1/255 ϵ = 0.5", line)
               for line in lines)  # fmt: skip
    at = lines.index("Supervised 76.71 38.20 ↓50% 22.56 ↓71% 11.53 ↓85% 28.22 ↓63% 0.65 ↓99% 11.30 ↓85%")
    assert lines[at + 1] == "SwAV 75.34 23.35 ↓69% 11.47 ↓85% 5.95 ↓92% 11.73 ↓84% 0.20 ↓100% 4.10 ↓95%"
    assert lines[at + 2] == " ".join(
        ["published", *(f"{each} (−0.50)" for each in ["75.84", "23.85", "11.97", "6.45", "12.23", "0.70", "4.60"])]
    )
    assert lines[at + 3] == "SimCLR 68.95 24.33 ↓65% 14.43 ↓79% 8.85 ↓87% 10.89 ↓84% 0.24 ↓100% 5.20 ↓92%"
    caption = " ".join(lines)
    assert (
        "n = 10000 examples per cell" in caption
        and "Published: the number in the paper, Table 1, in brackets ours minus it." in caption
    )
    assert "95 % confidence intervals over examples extend at most" in caption
    assert "PGD-ℓ∞ : steps=40; PGD-ℓ2 : steps=10" in caption


def test_table_4_has_the_closed_gap_beside_the_drop(pages):
    lines = pages[0]["four"]
    assert "Precision strategy 93.50 33.60 ↓64% ↑57% 24.90 ↓73% ↑62% 19.30 ↓79% ↑53% 8.70 ↓91% ↑61%" in lines
    assert "Supervised Contrastive 95.50 38.80 ↓59% 31.80 ↓67% 24.30 ↓75% 11.50 ↓88%" in lines


def test_table_5_has_gains_beside_the_drops_and_their_medians_and_mean_in_the_caption(pages):
    lines = pages[0]["five"]
    dynamic = "A-RoCL-dynamic 87.90 45.90 ↓48% ↑5.3% 13.20 ↓85% ↑15.8% 72.80 ↓17% ↑2.7% 82.10 ↓7% ↑2.6%"
    assert dynamic in lines and "A-RoCL-dynamic 43.10 ↓51% ↑5.6% 12.10 ↓86% ↑8.0%" in lines  # AutoAttack is below
    assert "ACL 86.20 41.20 ↓52% 12.10 ↓86% 72.30 ↓16% 80.70 ↓6%" in lines
    caption = " ".join(lines)
    assert "↑: relative improvement of the attacked accuracy (A-RoCL-static, A-RoCL-dynamic over RoCL; A-ACL-static, " \
        "A-ACL-dynamic over ACL)" in caption  # fmt: skip
    medians = "A-RoCL-static 3.2 %, A-RoCL-dynamic 5.5 %, A-ACL-static 3.7 %, A-ACL-dynamic 4.4 %"
    assert f"median gain across attacks: {medians}; mean of all 24 gains 5.2 %" in caption
    assert any(re.fullmatch(r"A-RoCL-dynamic 5\.3 15\.8 2\.7 2\.6 5\.6 8\.0 5\.5", line) for line in lines)


def test_each_source_of_published_numbers_has_its_row(pages):
    lines = pages[0]["five"]
    at = next(at for at, line in enumerate(lines) if line.startswith("RoCL 86.00 "))
    assert lines[at + 1] == "published [1] 86.00 (0.00)" and lines[at + 2].startswith("A-RoCL-static ")
    at = next(at for at, line in enumerate(lines) if line.startswith("RoCL 40.80 "))
    assert lines[at + 1 : at + 3] == ["published [1] 40.80 (0.00)", "published [2] 26.10 (+14.70)"]
    words = "Published: the number in a source, in brackets ours minus it; [1]: the paper; [2]: a rerun."
    assert words in " ".join(lines)


def test_gains_beside_closed_gaps_have_another_arrow(pages):
    lines = pages[0]["both"]
    recall = next(line for line in lines if line.startswith("Recall strategy 91.50 31.30"))
    assert recall.startswith("Recall strategy 91.50 31.30 ↓66% ↑38% ⇑−6.8%")
    caption = " ".join(lines)
    assert "↑: share of the accuracy gap from" in caption and "⇑: relative improvement of the attacked" in caption


def test_table_6_has_corruptions_by_group(pages):
    lines = [line for line in pages[0]["six"] if line]
    at = lines.index("Corruption Supervised SimCLR SwAV")
    assert lines[at + 1] == "clean 76.70 68.90 75.30"
    assert lines[at + 2 : at + 4] == ["Noise", "Impulse 49.20 ↓36% 37.20 ↓46% 35.30 ↓53%"]
    assert [line for line in lines if line in ("Noise", "Digital", "Blur", "Weather")] == [
        "Noise", "Digital", "Blur", "Weather"]  # fmt: skip
    assert "Zoom 52.90 ↓31% 34.80 ↓49% 47.90 ↓36%" in lines


@pytest.mark.parametrize(("name", "number"), [("one", 1), ("two", 2), ("four", 4), ("five", 5), ("eight", 8)])
def test_every_number_of_a_paper_s_table_is_in_its_model_s_row(pages, name, number):
    for model, row in PAPER[f"table{number}"]["rows"].items():
        head = re.compile(rf"{re.escape(model.split('/')[-1])}(?= \d)")
        blocks = [line for line in pages[0][name] if head.match(line)][: 2 if number == 5 else 1]
        line = " ".join(head.sub("", block) for block in blocks)
        numbers = [float(text) for text in re.findall(r"(?<![↓↑\d.])\d+\.\d+", line)]
        assert numbers == row["acc"]


def test_wide_tables_are_divided_and_every_number_of_every_model_is_there(pages, reports):
    lines, found = pages[0]["wide"], reports["wide"]
    for label in [f"model {at}" for at in range(18)]:
        text = " ".join(line for line in lines if line.startswith(f"{label} "))
        of_model = [each for each in found.cells if each.model == label and each.kind != "corruption"]
        for each in of_model:
            if each.distances is None:
                assert f"{100 * each.numbers.accuracy:.2f}" in text
    corruption = [each for each in found.cells if each.perturbation == "fog(1)"]
    text = " ".join(line for line in lines if line.startswith("Fog "))
    for each in corruption:
        if each.model not in found.run_of:
            assert f"{100 * each.numbers.accuracy:.2f} ↓{round(100 * each.numbers.relative_drop)}%" in text
    assert re.search(r"(?m)^m \d+\.\d\d ± \d+\.\d\d", "\n".join(lines))
    assert "± : sample standard deviation over runs" in " ".join(lines).replace("±:", "± :")
    assert "Overfull" not in pages[1].partition("(./hostile.tex")[0].rpartition("(./one.tex")[2]


def test_foreign_text_is_set_as_text(pages):
    text = " ".join(pages[0]["hostile"]).replace("ˆ", "^").replace("˜", "~")  # the glyphs of pdfLaTeX's first fonts
    text = unicodedata.normalize("NFKC", text)  # which have the sign of Ohm for Omega
    assert "\\input{/etc/passwd}" in text and "\\write18{touch pwned}" in text and "root:" not in text
    assert "100% $x^2$ {a} b #1 & ~c ^^M ^^5cend 80.00" in text  # an underscore is a rule, which is no character
    for shown in ("[16] TCLR 80.00", "*star 80.00", "}}}{ 80.00", "\\end{document} 80.00", "\\begin{tabular} 80.00",
                  "\\\\[3cm] 80.00", "&&& 80.00", "a--b", "<t> |p|", "\\u65e5\\u672c", "\\U0001f600",
                  "\\x1b[31mred\\u202e", "αΩ"):  # fmt: skip
        assert shown in text, shown
    assert text.count("80.00") == len(HOSTILE)
    assert "\\input{/etc/passwd}" in " ".join(pages[0]["list"])


def test_escapes_are_ascii_and_balanced():
    for text in [*HOSTILE, "".join(map(chr, range(0x20, 0x800)))]:
        shown = escaped(text, 5000)
        assert shown.isascii() and "\n" not in shown
        assert "^^" not in shown and not re.search(
            r"(?<!\\)[%$#&_~^]", shown.replace("\\(", "").replace("\\^{", "").replace("\\~{", "")
        )
        plain = re.sub(r"\\[{}]", "", shown)
        assert plain.count("{") == plain.count("}")


def test_the_limit_holds_for_what_is_typeset():
    """Characters that become escapes count as these: TeX fails on captions of many thousand characters."""
    for text in (500 * "模", 500 * "ש", 250 * "a模"):
        plain = escaped(text, 500).replace("\\textbackslash{}", "\\").replace("\\ldots{}", "…")
        assert 480 <= len(plain) <= 500 and plain.count("…") == 1
    assert escaped("模", 20) == "\\textbackslash{}u6a21"


def test_notes_that_all_numbers_share_are_in_the_caption_and_others_below():
    found = attacks(7)
    cut = replace(found.cells[1], complete=False, numbers=replace(found.cells[1].numbers, n=70))
    text = latex.render(replace(found, cells=(found.cells[0], cut, *found.cells[2:]), complete=False))
    assert text.count(r"\textsuperscript{a}") == 1
    assert "a: 70 of 10000 examples" in text
    assert "Incomplete: some cells failed" in text
    everywhere = tuple(replace(each, complete=False, numbers=replace(each.numbers, n=70)) for each in found.cells)
    text = latex.render(replace(found, cells=everywhere, complete=False))
    assert r"\textsuperscript" not in text and "70 of 10000 examples" in text
