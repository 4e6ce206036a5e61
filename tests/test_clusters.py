"""Clusters of examples: the key of a suite, its records in stores, and comparisons of clips of one video."""

import dataclasses
import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from robharness import api
from robharness.comparison.compare import compare
from robharness.comparison.outputs.tables import document_of
from robharness.comparison.records import MeasuredCell, Side
from robharness.comparison.sides import side_of
from robharness.errors import SuiteError
from robharness.planning.outline_files import as_record, parse, stem_of
from robharness.planning.outlining import outline
from robharness.report.renderers.terminal import render_document
from robharness.statistics import drop_difference, paired_difference
from robharness.suite import load
from robharness.suite.clusters import cluster_texts
from toy_suites import REGISTRY, json_head

CLIPS = "v_.+_g[0-9]+"
NAMES = ["Bowling/v_Bowling_g01_c01.avi", "Bowling/v_Bowling_g01_c02.avi", "Bowling/v_Bowling_g02_c01.avi", "other"]


@pytest.mark.parametrize(
    ("pattern", "texts"),
    [
        (CLIPS, ["v_Bowling_g01", "v_Bowling_g01", "v_Bowling_g02", ""]),
        ("_g([0-9]+)_c([0-9]+)", ["01", "01", "02", ""]),
        ("^(?:Bowling|other)", ["Bowling", "Bowling", "Bowling", "other"]),
        ("(?i)V_b(?P<part>.)", ["o", "o", "o", ""]),
        ("(x)?v_", ["", "", "", ""]),  # a group that takes no part in the match
        ("r$", ["", "", "", "r"]),
        ("é|.avi", [".avi", ".avi", ".avi", ""]),
    ],
)
def test_an_expression_finds_the_part_of_an_id(pattern, texts):
    assert cluster_texts(pattern, NAMES) == texts
    assert cluster_texts(pattern, []) == []


def test_an_id_may_have_lines_and_any_letters():
    assert cluster_texts("g(.)é", ["a\ng1é\n", "g2é", "\u202eg3é"]) == ["1", "2", "3"]


def test_no_expression_is_slow():
    """With the backtracking of Python's `re`, this takes longer than the universe has existed."""
    assert cluster_texts("^(a+)+$", ["a" * 4000 + "b", "a" * 4000]) == ["", "a" * 4000]


@pytest.mark.parametrize(
    ("pattern", "sentence"),
    [
        ("a(b", "it is no regular expression of RE2: missing ): a(b; got 'a(b'"),
        (r"(a)\1", r"it is no regular expression of RE2: invalid escape sequence: \1; got '(a)\\1'"),
        ("(?=a)", "it is no regular expression of RE2: invalid perl operator: (?=; got '(?=a)'"),
        ("a{1001}", "it is no regular expression of RE2: invalid repetition size: {1001}; got 'a{1001}'"),
        ("a)(b", "it is no regular expression of RE2: unexpected ): a)(b; got 'a)(b'"),
        ("", "String should have at least 1 character; got ''"),
        ("a" * 201, "String should have at most 200 characters; got"),
        ("a\nb", "it must be one line of visible characters; got 'a\\nb'"),
        (3, "Input should be a valid string; got 3"),
    ],
)
def test_other_values_are_refused(pattern, sentence):
    with pytest.raises(SuiteError) as caught:
        load(json_head() | {"clusters": pattern}, REGISTRY)
    assert len(caught.value.errors) == 1
    assert f"clusters: {sentence}" in caught.value.errors[0]


def test_the_place_of_an_error(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text(json.dumps(json_head())[:-1] + ',\n "clusters": "["}')
    with pytest.raises(SuiteError, match=r"s.yaml:2:14: clusters: it is no regular expression"):
        load(path, REGISTRY)
    path.write_text(json.dumps(json_head() | {"clusters": CLIPS}))
    assert load(path, REGISTRY).clusters == CLIPS
    path.write_text(json.dumps(json_head() | {"clusters": None}))
    assert load(path, REGISTRY).clusters is None


# --- records ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def record(suite, toys):
    def make(**changes):
        planned = outline(api.plan(suite(**changes), plugins=[toys]))
        return json.loads(json.dumps(as_record(planned, datetime(2026, 1, 2, tzinfo=UTC))))

    return make


def test_the_record_of_a_suite_without_clusters_is_as_before(record):
    assert "clusters" not in record()["suite"]
    whole = record(clusters=CLIPS)
    assert whole["suite"].pop("clusters") == CLIPS
    assert whole == record()


def test_the_record_of_a_suite_with_clusters_is_read_and_checked(record):
    whole = record(clusters=CLIPS)
    assert stem_of(whole) != stem_of(record())
    assert parse(json.dumps(whole).encode(), stem_of(whole)).suite.clusters == CLIPS
    for pattern in ("a(b", "a" * 201, 3):
        whole["suite"]["clusters"] = pattern
        with pytest.raises(ValueError, match="clusters"):
            parse(json.dumps(whole).encode(), stem_of(whole))


# --- comparisons -----------------------------------------------------------------------------------------------------


def measured(name, right):
    return MeasuredCell(
        model="Net", data="clips/test", perturbation=name, title=name, kind="clean" if name == "clean" else "attack",
        key=name, conditions=name, n_expected=len(right), positions=np.arange(len(right)), right=right,
    )  # fmt: skip


def sides(n=300, size=3, *, seed=0, **changes):
    """Two sides of clips, `size` of each video, that mostly change together; ids are in random order."""
    rng = np.random.default_rng(seed)
    numbers = rng.permutation(np.repeat(np.arange(n // size), size))
    ids = tuple(f"v_Run_g{number:03d}_c{at}.avi" for at, number in enumerate(numbers))
    before = {"clean": rng.random(n) < 0.9, "fog(1)": rng.random(n) < 0.6}
    after = {name: right & ~(rng.random(n // size) < 0.1)[numbers] for name, right in before.items()}
    made = [
        Side(
            name=name,
            suite="clips",
            n=n,
            ids=ids,
            clusters=CLIPS,
            cells=tuple(measured(*cell) for cell in some.items()),
        )
        for name, some in (("before", before), ("after", after))
    ]
    return *(dataclasses.replace(side, **changes) for side in made), numbers


def test_a_comparison_counts_clips_of_one_video_as_one():
    before, after, numbers = sides()
    found = compare(before, after)
    assert (found.clusters, found.findings) == (CLIPS, ())
    plain = compare(*(dataclasses.replace(side, clusters=None) for side in (before, after)))
    assert (plain.clusters, [cell.units for cell in plain.cells]) == (None, [300, 300])
    assert found.test == "exact test of random signs of clusters, adjusted by Holm for all cells together"
    assert plain.test == "exact McNemar test, adjusted by Holm for all cells together"
    for comparison, clusters in ((found, " in 100 clusters"), (plain, "")):
        text = render_document(document_of(comparison))
        assert comparison.test in text and f"on 300 examples{clusters}; 95 %" in " ".join(text.split())
    for cell, other, one, two in zip(found.cells, plain.cells, before.cells, after.cells, strict=True):
        expected = paired_difference(one.right, two.right, numbers)
        assert (cell.units, cell.n, cell.p_fall) == (100, 300, expected.p_fall)
        assert cell.interval == pytest.approx(expected.interval)
        assert cell.design_effect == pytest.approx(expected.design_effect) and cell.design_effect > 1.5
        assert other.p_fall < cell.p_fall and other.design_effect == 1
        assert (cell.difference, cell.lost, cell.lost_ids) == (other.difference, other.lost, other.lost_ids)
    clean, attacked = ((before.cells[at].right, after.cells[at].right) for at in (0, 1))
    assert found.cells[1].drop_interval == drop_difference(clean, attacked, numbers).interval
    assert found.cells[1].drop_difference == plain.cells[1].drop_difference


@pytest.mark.parametrize("side", [0, 1])
def test_a_side_without_ids_or_without_clusters_takes_those_of_the_other_side(side):
    both = list(sides()[:2])
    whole = compare(*both)
    both[side] = dataclasses.replace(both[side], ids=(), clusters=None)
    found = compare(*both)
    assert [(cell.p, cell.interval) for cell in found.cells] == [(cell.p, cell.interval) for cell in whole.cells]
    assert found.clusters == CLIPS


def test_a_baseline_of_more_examples_than_were_computed():
    before, after, numbers = sides()
    cells = tuple(measured(cell.perturbation, cell.right[:150]) for cell in after.cells)
    short = dataclasses.replace(after, ids=after.ids[:150], n=150, cells=cells)
    found = compare(dataclasses.replace(before, ids=()), short)
    assert found.cells[0].n == 150 and found.cells[0].units == len(set(numbers[:150].tolist()))


def test_without_ids_a_comparison_warns():
    before, after, _ = sides(ids=())
    found = compare(before, after)
    assert [each.code for each in found.findings] == ["clusters-unknown"]
    assert found.clusters is None and found.cells[0].units == 300


def test_ids_that_do_not_match_are_counted():
    before, after, _ = sides()
    ids = ("one", None, "one", *after.ids[3:])
    before, after = (dataclasses.replace(side, ids=ids) for side in (before, after))
    found = compare(before, after)
    assert [each.code for each in found.findings] == ["clusters-unmatched"]
    assert "matches 297 of 299 ids" in str(found.findings[0])
    matched = {id[:10] for id in ids[3:]}
    assert found.cells[0].units == len(matched) + 3


def test_a_suite_with_clusters_from_the_command_to_the_comparison(suite, run, tmp_path, teams):
    """Examples of the toys are test-000 to test-047; ten of them are a cluster. Stored outcomes stay as they are."""
    models = [{"model": "toys/net", "label": "Net"}, {"model": "teams/net", "label": "Other"}]
    source = suite(models=models)
    run(source)
    clustered = source | {"clusters": "test-[0-9]{2}"}
    assert not api.plan(clustered, store=tmp_path / "store", plugins=teams).missing
    results = api.load(clustered, store=tmp_path / "store", plugins=teams)
    assert results.is_complete
    before, after = (side_of(results, label, [label]) for label in ("Net", "Other"))
    assert before.clusters == "test-[0-9]{2}"
    found = compare(before, after, [("Net", "Other")])
    assert {cell.units for cell in found.cells} == {-(-found.n // 10)}
    assert found.n > 10
    unmatched = api.load(source | {"clusters": "test-.*[1-9]"}, store=tmp_path / "store", plugins=teams)
    found = api.compare(unmatched, models=("Net", "Other"))
    assert (found.clusters, found.cells[0].units) == ("test-.*[1-9]", found.n)
    assert "clusters-unmatched" in [each.code for each in found.findings]


def test_the_suites_of_clips_have_clusters():
    """The groups of UCF101: clips of one group show one person in one place."""
    suites = [
        path for path in (Path(__file__).parents[1] / "suites").rglob("*.yaml") if "datasets/ucf101" in path.read_text()
    ]
    assert len(suites) >= 4
    for path in suites:
        assert f'\nclusters: "{CLIPS}"' in path.read_text()
