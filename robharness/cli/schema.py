"""`robharness schema`: the JSON Schema of suites, for editors."""

from __future__ import annotations

import click

from robharness.cli import options
from robharness.cli.output import echo_json


@click.command("schema")
@options.plugin
@options.debug
def command(plugins: tuple[str, ...], debug: bool) -> int:
    """Print the JSON Schema of suites, with the options of every installed plugin.

    Editors check and complete suites with it: robharness schema > suite.schema.json
    """
    from robharness.plugins.discovery import discover
    from robharness.suite.schema import json_schema

    echo_json(json_schema(discover(plugins)), indent=2)
    return 0
