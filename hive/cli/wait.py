"""`hive wait`: until a model is on this machine's disk. For what starts beside hive and needs a model to be whole, an
init container for example.

The disk is asked and nothing else: what counts is that the path exists here, and the server that brings the model may
see the same store under another name, or be away. Nothing is brought: that is `hive pull`.
"""

from __future__ import annotations

import shlex
import time
from typing import Any, Final

import click

from hive.cli.errors import CliError
from hive.cli.format import shown
from hive.cli.output import echo, echo_value
from hive.cli.wanted import Wanted
from hive.settings import Settings
from hive.store.catalog import ModelCatalog, OnDisk

#: Seconds between two looks at the disk.
LOOK_S: Final = 1.0
#: The longest time-out, in seconds: a month.
MAX_TIMEOUT_S: Final = 31 * 86_400


@click.command(short_help="Wait until a model is on disk.")
@click.argument("ref")
@click.option("-r", "--revision", metavar="REV", help="Branch, tag or commit; the same as @REV in the reference.")
@click.option("--include", metavar="GLOB", multiple=True, help="Only files that match. May be given several times.")
@click.option("--exclude", metavar="GLOB", multiple=True, help="No files that match. May be given several times.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0, MAX_TIMEOUT_S),
    metavar="SECONDS",
    help="Give up after so many seconds; 0 looks once.",
)
@click.option("-q", "--quiet", is_flag=True, help="Print the path only.")
def wait(ref: str, timeout_s: float | None, quiet: bool, **selection: Any) -> None:
    """Wait until a model is on this machine's disk, whole and verified, and print its path.

    REF is what `hive pull` takes. Nothing is downloaded: another `hive pull`, here or on a machine with the same store,
    brings it.
    """
    settings = Settings.from_env()
    one = Wanted.read(ref, selection)
    found = _look(settings, one)
    if found is None and not quiet and timeout_s != 0:
        echo(f"Waiting for {shown(one.ref)} in {settings.store_dir}.", err=True)
    deadline_s = time.monotonic() + (MAX_TIMEOUT_S if timeout_s is None else timeout_s)
    while found is None and (left_s := deadline_s - time.monotonic()) > 0:
        time.sleep(min(LOOK_S, left_s))
        found = _look(settings, one)
    if found is None:
        raise CliError(
            f"{shown(one.ref)} is not in {settings.store_dir}.",
            f"hive pull {shlex.quote(shown(one.ref))}",
            code="MODEL_NOT_ON_DISK",
        )
    echo_value(found.local_path)


def _look(settings: Settings, one: Wanted) -> OnDisk | None:
    return ModelCatalog(settings).find(one.ref, tuple(one.selection["include"]), tuple(one.selection["exclude"]))
