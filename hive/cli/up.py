"""`hive up`, `hive serve` and `hive worker`: run all of hive, or one part of it."""

from __future__ import annotations

import os
import sys
from ipaddress import ip_address
from typing import NamedTuple

import click

from hive.cli.errors import USAGE, CliError, style
from hive.cli.output import echo_lines
from hive.net.server_address import parse_server_address
from hive.processes.children import python_module
from hive.settings import Settings
from hive.terminal import plain, plain_json

#: Workers that `hive up` runs, and downloads that one `hive worker` has in hand at once.
DEFAULT_WORKERS = 2
#: The most workers of one machine: each is a process of some 60 MB.
MAX_WORKERS = 64

#: The colour of each one's name in the log.
_COLOURS = {"server": "cyan", "workers": "green", "hive": "yellow"}
_NEED_REDIS = ("hive up  # brings a Redis of its own", "export REDIS_URL=redis://host:6379")


class Address(NamedTuple):
    """Where to listen."""

    host: str
    port: int


_host = click.option("--host", metavar="HOST", help="Address to listen on.  [default: from HIVE_HOST, 127.0.0.1]")
_port = click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    metavar="PORT",
    help="Port to listen on; 0 for a free one.  [default: from HIVE_HOST, 8080]",
)


_allow_remote = click.option(
    "--allow-remote", is_flag=True, help="Listen beyond this machine although there is no authentication."
)


@click.command(short_help="Run everything on this machine: Redis, server, workers.")
@_host
@_port
@click.option(
    "-w",
    "--workers",
    type=click.IntRange(1, MAX_WORKERS),
    default=DEFAULT_WORKERS,
    show_default=True,
    help="Downloads at once.",
)
@_allow_remote
def up(host: str | None, port: int | None, workers: int, allow_remote: bool) -> None:
    """Run everything on this machine until Ctrl-C: a Redis of its own, the HTTP server, and workers.

    With REDIS_URL set that Redis is used. Downloads under way survive a stop: they go on when hive runs again.
    """
    import asyncio

    from hive.processes.instance_lock import HomeInUse
    from hive.processes.stack import Stack, StackPlan

    settings = Settings.from_env()
    address = listen_address(settings, host, port)
    _check_reach(address, allow_remote=allow_remote)

    async def run() -> int:
        return await Stack(settings, StackPlan(*address, workers), say).run(on_ready)

    def on_ready(url: str, sentence: str) -> None:
        echo_lines(sentence)
        sys.stdout.flush()

    say = _json_lines if settings.log_format == "json" else _prefixed_lines
    try:
        code = asyncio.run(run())
    except HomeInUse as error:
        hint = f"use it with HIVE_HOST={error.holder.address}" if error.holder and error.holder.address else ""
        raise CliError(str(error), *filter(None, [hint]), "or give another HIVE_HOME", code="HOME_IN_USE") from None
    raise click.exceptions.Exit(code)


@click.command(short_help="Run the HTTP server.")
@_host
@_port
@click.option(
    "--processes",
    type=click.IntRange(1, MAX_WORKERS),
    default=1,
    show_default=True,
    help="Processes on one port; one a core is enough.",
)
@_allow_remote
def serve(host: str | None, port: int | None, processes: int, allow_remote: bool) -> None:
    """Run the HTTP server until SIGTERM. Needs REDIS_URL, and workers on the same Redis."""
    settings = _settings_with_redis("serve")
    address = listen_address(settings, host, port)
    _check_reach(address, allow_remote=allow_remote)
    from hive import logs, server

    logs.setup(settings.log_level, settings.log_format)
    server.run(settings, *address, processes=processes)


@click.command(short_help="Run workers.")
@click.option(
    "-c",
    "--concurrency",
    type=click.IntRange(1, MAX_WORKERS),
    default=DEFAULT_WORKERS,
    show_default=True,
    help="Downloads at once.",
)
def worker(concurrency: int) -> None:
    """Run workers until SIGTERM, which makes them hand back what they have in hand. Needs REDIS_URL."""
    _settings_with_redis("worker")
    command = python_module("workers", "--concurrency", str(concurrency))
    sys.stdout.flush()
    # In the place of this process, so that signals and the exit code are the workers' own.
    os.execv(command[0], command)  # noqa: S606


def listen_address(settings: Settings, host: str | None, port: int | None) -> Address:
    """Where to listen: the options, else HIVE_HOST, else the default.

    Raises:
        CliError: when HIVE_HOST names nothing that can be listened on.
    """
    if host is not None and port is not None:
        return Address(host, port)
    try:
        named = parse_server_address(settings.host)
    except ValueError as error:
        raise CliError(f"HIVE_HOST: {error}", exit_code=USAGE) from None
    if named.scheme != "http" or named.path or named.credentials:
        raise CliError(
            "HIVE_HOST names a server that is reached in another way than it listens.",
            "hive up --host 127.0.0.1 --port 8080",
            exit_code=USAGE,
        )
    return Address(host or named.host, named.port if port is None else port)


def _check_reach(address: Address, *, allow_remote: bool) -> None:
    """Raises CliError where others could reach the address, and nobody said that they may."""
    if not (allow_remote or _is_local(address.host)):
        raise CliError(
            f"There is no authentication yet, so hive does not listen on {address.host}, where others can reach it.",
            "give --allow-remote where something in front of it keeps strangers out",
            exit_code=USAGE,
        )


def _is_local(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _settings_with_redis(command: str) -> Settings:
    settings = Settings.from_env()
    if settings.redis_url is None:
        raise CliError(f"`hive {command}` needs a Redis, and REDIS_URL is not set.", *_NEED_REDIS, exit_code=USAGE)
    return settings


def _prefixed_lines(name: str, line: str) -> None:
    """A line of the log for people, with who wrote it in front."""
    from hive import logs

    logs.say(f"{style(f'{name:7} |', _COLOURS.get(name, 'white'))} {plain(line)}")


def _json_lines(name: str, line: str) -> None:
    """The children's lines are JSON already, and stay so; ours become so."""
    if name == "hive":
        import json

        line = json.dumps({"level": "info", "logger": "hive.processes.stack", "message": line})
    from hive import logs

    logs.say(plain_json(line))
