"""`hive pull --dry-run`: what a download would bring, and whether it fits."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from hive.cli.errors import CliError, each_in_turn, hints_of
from hive.cli.format import plain, size
from hive.cli.hub_token import HubToken
from hive.cli.output import echo, echo_json
from hive.cli.server import Server
from hive.cli.table import Column, print_table
from hive.cli.wanted import Wanted
from hive.errors import HiveError
from hive.settings import Settings
from hive.wire.api import DownloadPlan
from hive.wire.words import counted

_COLUMNS = (Column("FILE", shrinks="middle"), Column("SIZE", figures=True), Column("ON DISK"))
#: What the server needs for a plan.
_ASKED = ("revision", "include", "exclude", "update", "sha256", "name")


def show_plans(
    settings: Settings, server: Server | None, wanted: Sequence[Wanted], token: HubToken, *, as_json: bool
) -> None:
    """Show the plan of each: the files on standard output, the sum on standard error.

    Raises:
        CliError: there is none, or it does not fit.
    """
    with ExitStack() as stack:
        client = stack.enter_context(server.client()) if server else None
        shown_token = token.for_client(client) if client is not None else None

        def show(one: Wanted) -> None:
            try:
                if client is not None:
                    asked = {name: one.selection[name] for name in _ASKED}
                    plan = client.plan(one.text, hf_token=shown_token, **asked)
                else:
                    from hive.cli.local_pull import checked, plan_here

                    plan = plan_here(settings, checked(one.spec(token.value)))
            except HiveError as error:
                raise CliError(plain(error.message), *hints_of(error.details, one.ref), code=error.code) from None
            _show(plan, as_json=as_json)

        each_in_turn(wanted, show)


def _show(plan: DownloadPlan, *, as_json: bool) -> None:
    if as_json:
        echo_json(plan, indented=True)
    else:
        rows = [[file.path, size(file.size), "yes" if file.on_disk else "no"] for file in plan.files]
        print_table(_COLUMNS, rows)
        echo(f"{plain(plan.name)}: {counted(len(plan.files), 'file')}, {_amount(plan)}", err=True)
    if plan.room is not None and not plan.room.enough:
        raise CliError(
            f"It does not fit: {size(plan.bytes_missing)} are needed, {size(plan.room.available)} may be taken.",
            "hive gc --dry-run",
            "hive ls",
            code="DISK_FULL",
        )


def _amount(plan: DownloadPlan) -> str:
    total = size(plan.bytes_total) if plan.bytes_total is not None else "size not known"
    if plan.bytes_missing is None:
        return total
    return f"{total}, {size(plan.bytes_missing)} to download" if plan.bytes_missing else f"{total}, already on disk"
