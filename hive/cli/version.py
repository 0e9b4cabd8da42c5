"""`hive version`: of this program, and of the server where one answers."""

from __future__ import annotations

import platform

import click

from hive.cli.table import print_fields
from hive.settings import Settings
from hive.version import VERSION


@click.command(short_help="Show the version of this program and of the server.")
def version() -> None:
    """Show the version of this program, of Python, and of the server where one answers."""
    from hive.cli.errors import CliError
    from hive.cli.server import find_server, probe

    settings = Settings.from_env()
    try:
        server = find_server(settings)
        health = probe(server.address) if server else None
    except CliError as error:
        server, shown = None, error.message
    else:
        shown = f"{health.version} at {server.address}" if server and health else "none answers"
    print_fields([("hive", VERSION), ("python", platform.python_version()), ("server", shown)])
