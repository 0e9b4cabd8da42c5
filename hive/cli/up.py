"""`hive up`, `hive serve` and `hive worker`: run all of hive, or one part of it."""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING, NamedTuple

import click

from hive import cli
from hive.cli.errors import USAGE, CliError, say_hints, style
from hive.cli.output import echo_lines
from hive.imports import uncollected
from hive.net.server_address import is_loopback, parse_server_address
from hive.processes.children import python_module
from hive.settings import Settings
from hive.terminal import plain, plain_json
from hive.wire.words import counted

if TYPE_CHECKING:
    from hive.processes.fork import Part

#: Workers that `hive up` runs, and downloads that one `hive worker` has in hand at once.
DEFAULT_WORKERS = 2
#: The most workers of one machine: each is a process of some 60 MB.
MAX_WORKERS = 64

#: The colour of each one's name in the log.
_COLOURS = {"server": "cyan", "workers": "green", "hive": "yellow"}
#: The program of the workers, which hive knows by name only.
_WORKERS = "workers.pool"
_NEED_REDIS = ("hive up  # brings a Redis of its own", "export REDIS_URL=redis://host:6379")


class ListenAddress(NamedTuple):
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


_allow_unauthenticated = click.option(
    "--allow-unauthenticated",
    "--allow-remote",  # what it was called before there were keys
    "allow_unauthenticated",
    is_flag=True,
    help="Listen beyond this machine although there is no API key.",
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
@_allow_unauthenticated
def up(host: str | None, port: int | None, workers: int, allow_unauthenticated: bool) -> None:
    """Run everything on this machine until Ctrl-C: a Redis of its own, the HTTP server, and workers.

    With REDIS_URL set that Redis is used. Downloads under way survive a stop: they go on when hive runs again.

    Others can reach it with --host 0.0.0.0 once there is an API key: see `hive key new`.
    """
    from hive.processes.instance_lock import HomeInUse
    from hive.processes.stack import Stack, StackPlan

    settings = Settings.from_env()
    address = listen_address(settings, host, port)
    keys_on = _are_keys_on(settings)
    _check_reach(address, keys_on=keys_on, allow_unauthenticated=allow_unauthenticated)
    plan = StackPlan(*address, workers, allow_unauthenticated, are_keys_on=lambda: _have_keys_come(settings))
    api_key = _own_key(settings) if keys_on else ""

    def on_ready(url: str, sentence: str) -> None:
        echo_lines(sentence)
        sys.stdout.flush()

    say = _json_lines if settings.log_format == "json" else _prefixed_lines
    try:
        code = Stack(settings, plan, say, _parts(), api_key).run(on_ready)
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
@_allow_unauthenticated
@click.option("--require-keys", is_flag=True, hidden=True)
def serve(host: str | None, port: int | None, processes: int, allow_unauthenticated: bool, require_keys: bool) -> None:
    """Run the HTTP server until SIGTERM. Needs REDIS_URL, and workers on the same Redis."""
    settings = _settings_with_redis("serve")
    address = listen_address(settings, host, port)
    keys_on = require_keys or _are_keys_on(settings)
    _check_publication(settings, address, keys_on=keys_on, allow_unauthenticated=allow_unauthenticated)
    with uncollected():
        from hive import logs, server

    logs.setup(settings.log_level, settings.log_format)
    server.run(settings, *address, processes=processes, keys_required=keys_on)


@click.command(short_help="Run workers.")
@click.option(
    "-c",
    "--concurrency",
    type=click.IntRange(1, MAX_WORKERS),
    default=DEFAULT_WORKERS,
    show_default=True,
    help="Downloads at once.",
)
@click.option("--alive", is_flag=True, help="Run none; only say whether this machine's workers are well.")
def worker(concurrency: int, alive: bool) -> None:
    """Run workers until SIGTERM, which makes them hand back what they have in hand. Needs REDIS_URL.

    With --alive the exit code is 0 where workers run here and none of them hangs: for a supervisor that restarts them.
    """
    if alive:
        _look_at_workers()
        return
    _settings_with_redis("worker")
    command = python_module("workers", "--concurrency", str(concurrency))
    sys.stdout.flush()
    # In the place of this process, so that signals and the exit code are the workers' own.
    os.execv(command[0], command)  # noqa: S606


def _parts() -> dict[str, Part]:
    """The parts of the stack as they are started by fork."""
    from hive.processes.fork import Part

    def load_server() -> None:
        from hive import server  # noqa: F401

    return {
        "server": Part(load_server, cli.run),
        "workers": Part(
            lambda: importlib.import_module(_WORKERS), lambda args: importlib.import_module(_WORKERS).main(args)
        ),
    }


def _look_at_workers() -> None:
    """Raises CliError where none runs here, or one hangs."""
    from hive.processes import pulse

    found = pulse.look(Settings.from_env().home_dir)
    if not found.pids:
        raise CliError("No worker runs here.", "hive worker")
    if found.hanging:
        pids = ", ".join(map(str, found.hanging))
        raise CliError(f"Not heard of for {pulse.MAX_SILENCE_S:.0f} s: the worker with pid {pids}.")
    echo_lines(counted(len(found.pids), "worker"))


def listen_address(settings: Settings, host: str | None, port: int | None) -> ListenAddress:
    """Where to listen: the options, else HIVE_HOST, else the default.

    Raises:
        CliError: when HIVE_HOST names nothing that can be listened on.
    """
    if host is not None and port is not None:
        return ListenAddress(host, port)
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
    return ListenAddress(host or named.host, named.port if port is None else port)


def _check_reach(address: ListenAddress, *, keys_on: bool, allow_unauthenticated: bool) -> None:
    """Raises CliError where others could reach the address, and neither keys nor anybody's word keep them out."""
    if not (keys_on or allow_unauthenticated or is_loopback(address.host)):
        raise CliError(
            f"There is no API key, so hive does not listen on {address.host}, where others can reach it.",
            "hive key new --name NAME --scopes read,pull  # and others need one",
            "give --allow-unauthenticated where something in front of it keeps strangers out",
            exit_code=USAGE,
        )


def _check_publication(
    settings: Settings, address: ListenAddress, *, keys_on: bool, allow_unauthenticated: bool
) -> None:
    """The same for a server in a container, which listens on all addresses: where it is said at which address of the
    host it is published, that one counts. Raises CliError.
    """
    if settings.published_at is None or is_loopback(address.host):
        _check_reach(address, keys_on=keys_on, allow_unauthenticated=allow_unauthenticated)
    elif not (keys_on or allow_unauthenticated or is_loopback(settings.published_at)):
        raise CliError(
            f"There is no API key, so hive does not serve at {settings.published_at}, where others can reach it.",
            "docker compose run --rm api key new --name NAME --scopes admin  # and every request needs one",
            "publish it on the loopback: HIVE_BIND=127.0.0.1",
            exit_code=USAGE,
        )


def _are_keys_on(settings: Settings) -> bool:
    """Whether there are API keys. Raises KeyFileUnusable."""
    if not os.path.lexists(settings.api_keys_path):
        return False  # and nothing more is loaded
    from hive.auth.keys import KeyFile

    return bool(KeyFile(settings.api_keys_path).read().keys)


def _have_keys_come(settings: Settings) -> bool:
    """Whether there are API keys; so is a file that cannot be used, which the server fails closed with."""
    from hive.errors import KeyFileUnusable

    try:
        return _are_keys_on(settings)
    except (KeyFileUnusable, OSError):
        return True


def _own_key(settings: Settings) -> str:
    """The key with which this command, and others of this user, talk to the server; the given one where none can be
    made.
    """
    from hive.auth.keys import KeyFile
    from hive.auth.local_key import ensure_local_key
    from hive.cli.api_key import given_key
    from hive.errors import KeyFileUnusable

    try:
        return ensure_local_key(settings.local_key_path, KeyFile(settings.api_keys_path)) or ""
    except (KeyFileUnusable, OSError) as error:
        say_hints(
            f"No key can be made for the command line: {error}.", "export HIVE_API_KEY_FILE=/path/to/an/admin/key"
        )
        return given_key(settings)


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
