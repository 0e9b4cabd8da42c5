"""`hive limit`: how much all workers together take from the network, and how many downloads run at once."""

from __future__ import annotations

import re

import click

from hive.cli.errors import USAGE, CliError
from hive.cli.format import speed
from hive.cli.server import need_server
from hive.cli.table import print_fields
from hive.settings import Settings
from hive.wire.jobs import MAX_RUNNING, MIN_BYTES_PER_SECOND

_RATE = re.compile(r"(\d{1,15}(?:\.\d{1,6})?)\s*(k|m|g|t)?(i?)b?(?:/s|ps)?", re.IGNORECASE)
#: What is shown where there is none.
NO_LIMIT = "no limit"
#: What people write for no limit.
OFF = frozenset({"off", "none", "unlimited", "0"})
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


@click.command(short_help="Show or set the limits of all workers together.")
@click.argument("rate", required=False)
@click.option("--downloads", metavar="N", help="How many downloads run at once in the whole fleet, or off.")
def limit(rate: str | None, downloads: str | None) -> None:
    """Show the limits of all workers together, or set how much they take from the network to RATE: 40MB/s, 2.5M, 800k,
    off.

    k, M and G are powers of 1000, Ki, Mi and Gi of 1024. Downloads under way follow within a second or two.
    """
    wanted = None if rate is None else bytes_per_second(rate)
    most = None if downloads is None else number(downloads)
    with need_server(Settings.from_env()).client() as client:
        if rate is not None:
            client.set_bandwidth(wanted)
        if downloads is not None:
            client.set_running_limit(most)
        running = client.running_limit()
        print_fields(
            [
                ("bandwidth", speed(client.bandwidth()) or NO_LIMIT),
                ("downloads", f"{running} at once" if running else NO_LIMIT),
            ]
        )


def number(text: str) -> int | None:
    """The number of downloads that a person means, None for `off`.

    Raises:
        CliError: when it is none.
    """
    if text.strip().lower() in OFF:
        return None
    if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= MAX_RUNNING):
        raise CliError(
            f"'{text[:40]}' is no number of downloads.", f"write 1 to {MAX_RUNNING}, or off", exit_code=USAGE
        )
    return int(text)


def bytes_per_second(text: str) -> int | None:
    """The rate that a person means, None for `off`.

    Raises:
        CliError: when it is none, or too low.
    """
    if text.strip().lower() in OFF:
        return None
    found = _RATE.fullmatch(text.strip())
    if found is None:
        raise CliError(f"'{text[:40]}' is no rate.", "write 40MB/s, 2.5M, 800k or off", exit_code=USAGE)
    number, power, binary = found.groups()
    rate = int(float(number) * (1024 if binary else 1000) ** _POWERS[(power or "").lower()])
    if rate < MIN_BYTES_PER_SECOND:
        raise CliError(
            f"The lowest limit is {MIN_BYTES_PER_SECOND} bytes per second.", "`off` ends it", exit_code=USAGE
        )
    return rate
