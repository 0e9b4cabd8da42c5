"""`hive limit`: how much all workers together take from the network."""

from __future__ import annotations

import re

import click

from hive.cli.failure import USAGE, CliError
from hive.cli.server import need_server
from hive.cli.units import speed
from hive.settings import MIN_BYTES_PER_SECOND, Settings

_RATE = re.compile(r"(\d{1,15}(?:\.\d{1,6})?)\s*(k|m|g|t)?(i?)b?(?:/s|ps)?", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


@click.command(short_help="Show or set what all workers together take from the network.")
@click.argument("rate", required=False)
def limit(rate: str | None) -> None:
    """Show what all workers together may take from the network, or set it to RATE: 40MB/s, 2.5M, 800k, off.

    k, M and G are powers of 1000, Ki, Mi and Gi of 1024. Downloads under way follow within a second or two.
    """
    wanted = None if rate is None else bytes_per_second(rate)
    with need_server(Settings.from_env()).client() as client:
        found = client.bandwidth() if rate is None else client.set_bandwidth(wanted)
    click.echo(speed(found) or "off")


def bytes_per_second(text: str) -> int | None:
    """The rate that a person means, None for `off`.

    Raises:
        CliError: when it is none, or too low.
    """
    if text.strip().lower() in ("off", "none", "unlimited", "0"):
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
