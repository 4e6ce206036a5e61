"""`robharness schema`: the JSON Schemas of suites and of reports."""

from __future__ import annotations

import click

from robharness.cli import options
from robharness.cli.output import echo_json


@click.command("schema")
@click.argument("what", type=click.Choice(["suite", "report"]), default="suite")
@options.plugin
@options.debug
def command(what: str, plugins: tuple[str, ...], debug: bool) -> int:
    """Print the JSON Schema of suites, with the options of every installed plugin, or that of reports.

    Editors check and complete suites with it: robharness schema > suite.schema.json

    Programs check the JSON of `report` and `run --json` with the other: robharness schema report
    """
    from robharness.plugins.discovery import discover
    from robharness.report.schema import report_schema
    from robharness.suite.schema import json_schema

    echo_json(report_schema() if what == "report" else json_schema(discover(plugins)), indent=2)
    return 0
