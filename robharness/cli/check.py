"""`robharness check SUITE`: compute the missing cells of a suite, and compare them with a baseline."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from robharness.cli import options
from robharness.cli.ci import Outputs, ci_options

if TYPE_CHECKING:
    from robharness.comparison.records import CheckReport
    from robharness.session import Session


@click.command("check")
@options.suite_options
@options.compute_options
@click.option("--baseline", metavar="FILE|STORE|LABEL",
              help="Compare with a .json file, a folder of results, or a model of SUITE; by default with the file "
                   "beside SUITE, NAME.baseline.json.")  # fmt: skip
@click.option("--update", is_flag=True, help="Write the results into the file of the baseline, if all are complete.")
@click.option("--benchmark", metavar="FILE",
              help="Compare the ratios of a file of pytest --benchmark-json as well.")  # fmt: skip
@click.option("--benchmark-tolerance", type=click.FloatRange(min=0), metavar="PERCENT", default=10, show_default=True,
              help="How much worse a ratio may become beyond both spreads.")  # fmt: skip
@ci_options
@options.with_session
def command(
    session: Session,
    workers: int | None,
    executor: str | None,
    batch_size: int | None,
    baseline: str | None,
    update: bool,
    benchmark: str | None,
    benchmark_tolerance: float,
    outputs: Outputs,
    as_json: bool,
) -> int:
    """Compare the cells of SUITE with a baseline, after the missing ones were computed.

    A cell regresses if its accuracy falls by more than the tolerance of SUITE, and significantly for all cells
    together.

    Exit codes: 0 nothing regressed, or the baseline was written, 1 a cell regressed, 2 usage error, or data or weights
    are missing, 3 cells failed or are missing, 4 the baseline is absent or incompatible, 130 stopped by Ctrl-C.
    """
    from robharness.cli.computing import compute, show_end
    from robharness.comparison.benchmarks import read_ratios
    from robharness.comparison.checks import check_results
    from robharness.comparison.references import find_reference

    ratios = None if benchmark is None else read_ratios(benchmark)
    reference = find_reference(baseline, session.plan, update=update, benchmark=benchmark)
    summary = compute(session, workers=workers, executor=executor, batch_size=batch_size)
    results = session.results(notify=True)
    report = check_results(
        results, reference, update=update, findings=results.run_findings,
        benchmarks=ratios, benchmark_tolerance=benchmark_tolerance,
    )  # fmt: skip
    show(report, as_json=as_json)
    outputs.write(report, err=as_json)
    show_end(session, summary)
    return report.exit_code


def show(report: CheckReport, *, as_json: bool) -> None:
    """Print a check on standard output, as tables or as JSON."""
    from robharness.cli.output import echo_json, results_console
    from robharness.comparison import check_json
    from robharness.comparison.check_tables import document_of_check
    from robharness.comparison.tables import LAYOUT
    from robharness.report.renderers.terminal import show_document

    if as_json:
        echo_json(check_json.render(report))
    else:
        show_document(document_of_check(report), results_console(), LAYOUT)
