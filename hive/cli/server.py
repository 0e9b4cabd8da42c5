"""Which server a command talks to.

In this order: the one that HIVE_HOST names; the one that holds HIVE_HOME's lock, on whatever port; the one at the
default address. `hive pull` runs a private one where there is none (private_server.py); the other commands say how to
start one.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from hive.cli.errors import USAGE, CliError
from hive.processes.instance_lock import holder_of
from hive.settings import DEFAULT_ADDRESS, Settings

if TYPE_CHECKING:
    from hive.client import Client
    from hive.wire.api import Health

#: Seconds to wait for a server that has taken the home and is about to listen.
STARTING_TIMEOUT_S = 15.0
#: Seconds between two looks at it.
POLL_S = 0.05
#: Seconds for the answer of what listens at the default address: it may be something else that never answers.
PROBE_TIMEOUT_S = 2.0
#: Seconds without a connection after which a watch gives up a server that belongs to another `hive pull`: it ends with
#: that.
PRIVATE_PATIENCE_S = 2.0


class Server(NamedTuple):
    """A server that answers: its address, and whether it ends with the `hive pull` that runs it."""

    address: str
    private: bool = False

    def client(self) -> Client:
        """A client of it."""
        from hive.client import Client
        from hive.client.watch import PATIENCE_S

        return Client(self.address, patience_s=PRIVATE_PATIENCE_S if self.private else PATIENCE_S)


def find_server(settings: Settings) -> Server | None:
    """The server to talk to, or None where HIVE_HOST is not set and none answers.

    Raises:
        CliError: when HIVE_HOST is set and no hive answers there, or the one that holds HIVE_HOME does not answer.
    """
    if settings.host != DEFAULT_ADDRESS:
        return Server(_named_server(settings.host))
    held = _held_server(settings)
    if held is not None:
        return held
    return Server(DEFAULT_ADDRESS) if probe(DEFAULT_ADDRESS) else None


def need_server(settings: Settings) -> Server:
    """The server to talk to.

    Raises:
        CliError: when there is none; the hints say how to start or name one.
    """
    found = find_server(settings)
    if found is None:
        raise CliError(
            f"No hive server answers at {DEFAULT_ADDRESS}.",
            "start one with `hive up`, or name one with HIVE_HOST=host:port",
            code="SERVER_UNREACHABLE",
        )
    return found


def probe(address: str) -> Health | None:
    """What the hive server at this address says of itself, or None where something else or nothing answers."""
    from hive.client import Client
    from hive.errors import HiveError

    try:
        with Client(address, read_timeout_s=PROBE_TIMEOUT_S) as client:
            health = client.health()
    except HiveError:
        return None
    return health if health.status == "alive" else None


def _named_server(address: str) -> str:
    from hive.client import Client, ServerUnreachable
    from hive.errors import HiveError

    try:
        client = Client(address)
    except ValueError as error:
        raise CliError(f"HIVE_HOST: {error}", exit_code=USAGE) from None
    with client:
        try:
            client.health()
        except ServerUnreachable as error:
            raise CliError(error.message, "HIVE_HOST names this server; is it running?", code=error.code) from None
        except HiveError as error:
            raise CliError(f"What answers at {client.url} is not hive.", error.message, code=error.code) from None
    return address


def _held_server(settings: Settings) -> Server | None:
    """The server of whoever holds the home, waiting for one that starts, comes back or is about to let go."""
    deadline = time.monotonic() + STARTING_TIMEOUT_S
    while (holder := holder_of(settings.home_dir)) is not None:
        if holder.address is not None and probe(holder.address):
            return Server(holder.address, holder.private)
        if time.monotonic() > deadline:
            raise CliError(
                f"hive runs on {settings.home_dir} (pid {holder.pid}), but its server does not answer.",
                "see what that `hive up` says, or end it",
                code="SERVER_UNREACHABLE",
            )
        time.sleep(POLL_S)
    return None
