"""Which server a command talks to.

In this order: the one that HIVE_HOST names; the one that holds HIVE_HOME's lock, on whatever port; the one at the
default address, where this user or root runs it. `hive pull` downloads by itself where there is none
(local_pull.py); what is on the disk is read from there; the other commands say how to start a server.

Most commands find none, so looking costs next to nothing: a lock, and a connection that is refused. The HTTP client is
imported when something answers.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from hive.cli.api_key import key_for
from hive.cli.errors import USAGE, CliError, say_hints
from hive.processes.instance_lock import holder_of
from hive.processes.peer import listener_uid
from hive.settings import DEFAULT_ADDRESS, Settings

if TYPE_CHECKING:
    from hive.client import Client
    from hive.wire.api import Health

#: Seconds to wait for a server that has taken the home and is about to listen.
STARTING_TIMEOUT_S: Final = 15.0
#: Seconds between two looks at it.
POLL_S: Final = 0.05
#: Seconds for the answer of what listens at the default address: it may be something else that never answers.
PROBE_TIMEOUT_S: Final = 2.0


class Server(NamedTuple):
    """A server that answers: its address, whether it is somebody else's, who may not see this user's token, and the API
    key for it, "" for none.
    """

    address: str
    foreign: bool = False
    api_key: str = ""
    #: The secret key that it proves to have before each request; None where the key is for it whatever it proves.
    secret: bytes | None = None

    def client(self) -> Client:
        """A client of it."""
        from hive.client import Client

        return Client(self.address, api_key=self.api_key, secret=self.secret)

    def __repr__(self) -> str:
        return f"Server({self.address!r}, foreign={self.foreign}, api_key={'***' if self.api_key else ''!r})"


def find_server(settings: Settings) -> Server | None:
    """The server to talk to, or None where HIVE_HOST is not set and none answers.

    Raises:
        CliError: when HIVE_HOST is set and no hive answers there, or the one that holds HIVE_HOME does not answer.
    """
    if settings.host != DEFAULT_ADDRESS:
        address = _named_server(settings.host)
        return Server(address, is_foreign(address), *key_for(settings, address, named=True))
    held = _held_server(settings)
    if held is not None:
        return held
    if not _is_taken(DEFAULT_ADDRESS) or probe(DEFAULT_ADDRESS) is None:
        return None
    if is_foreign(DEFAULT_ADDRESS):
        say_hints(
            f"The hive at {DEFAULT_ADDRESS} is another user's, and is left alone. To use it all the same:",
            f"export HIVE_HOST=http://{DEFAULT_ADDRESS}",
        )
        return None
    from hive.client.api_key import is_host_named

    return Server(DEFAULT_ADDRESS, False, *key_for(settings, DEFAULT_ADDRESS, named=is_host_named()))


def is_foreign(address: str) -> bool:
    """Whether another user of this machine, who is not root, listens at this address. False where that cannot be
    told, and for other machines.
    """
    uid = listener_uid(address)
    return uid is not None and uid not in (0, os.geteuid())


def need_server(settings: Settings) -> Server:
    """The server to talk to.

    Raises:
        CliError: when there is none; the hints say how to start or name one.
    """
    found = find_server(settings)
    if found is None:
        raise CliError(
            f"No hive server answers at {DEFAULT_ADDRESS}.",
            "hive up",
            "export HIVE_HOST=host:port",
            code="SERVER_UNREACHABLE",
        )
    return found


def probe(address: str) -> Health | None:
    """What the hive server at this address says of itself, or None where something else or nothing answers."""
    from hive.client import Client
    from hive.errors import HiveError

    try:
        with Client(address, api_key="", read_timeout_s=PROBE_TIMEOUT_S) as client:
            health = client.health()
    except HiveError:
        return None
    return health if health.status == "alive" else None


def _is_taken(address: str) -> bool:
    """Whether anything listens there."""
    import socket

    host, _, port = address.rpartition(":")
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), PROBE_TIMEOUT_S):
        return True
    return False


def _named_server(address: str) -> str:
    from hive.client import Client, ServerUnreachable
    from hive.errors import HiveError

    try:
        client = Client(address, api_key="")
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
            return Server(holder.address, False, *key_for(settings, holder.address, named=False))
        if time.monotonic() > deadline:
            raise CliError(
                f"hive runs on {settings.home_dir} (pid {holder.pid}), but its server does not answer.",
                f"kill {holder.pid}",
                code="SERVER_UNREACHABLE",
            )
        time.sleep(POLL_S)
    return None
