"""`robharness schema`: the JSON Schemas of suites, of reports, of comparisons and of checks."""

from __future__ import annotations

import click

from robharness.cli import options
from robharness.cli.output import echo_json


@click.command("schema")
@click.argument("what", type=click.Choice(["suite", "report", "comparison", "check"]), default="suite")
@options.plugin
@options.debug
def command(what: str, plugins: tuple[str, ...], debug: bool) -> int:
    """Print the JSON Schema of suites, with the options of every installed plugin, or of reports, comparisons
    or checks.

    Editors check and complete suites with it: robharness schema > suite.schema.json

    Programs check the JSON of `report` and `run --json` with another: robharness schema report. The JSON of `compare`
    has its own, robharness schema comparison, and so has that of `check`, robharness schema check.
    """
    from robharness.comparison.outputs.json import comparison_schema
    from robharness.gate.outputs.json import check_schema
    from robharness.plugins.discovery import discover
    from robharness.report.schema import report_schema
    from robharness.suite.schema import json_schema

    made = {
        "suite": lambda: json_schema(discover(plugins)),
        "report": report_schema,
        "comparison": comparison_schema,
        "check": check_schema,
    }
    echo_json(made[what](), indent=2)
    return 0
