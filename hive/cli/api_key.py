"""The API key of a command: where it comes from, and which server may see it.

A key is never an argument: arguments are seen by every user of the machine and kept by shells. It comes from
HIVE_API_KEY, from the file in HIVE_API_KEY_FILE, or, for a `hive up` of this user's own, from HIVE_HOME.

Anybody on this machine may listen on a port, and a key is good for whoever has heard it. So it goes to the server that
HIVE_HOST names, because that is what it was given for. Any other proves before each request that it has the secret key
of this HIVE_HOME (wire/proof.py), which tells it nothing: the port of a server that has ended may be a stranger's.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, NamedTuple

from hive.cli.errors import USAGE, CliError, say_hints
from hive.key_file import read_key_file

if TYPE_CHECKING:
    from hive.settings import Settings


class Key(NamedTuple):
    """A key for a server, "" for none, and the secret that the server has to prove before it is sent the key."""

    text: str = ""
    secret: bytes | None = None

    def __repr__(self) -> str:
        return "Key(***)"


def key_for(settings: Settings, address: str, *, named: bool) -> Key:
    """The key for the server at this address. `named`: HIVE_HOST names it.

    Raises:
        CliError: the key that was given cannot be used.
    """
    given = given_key(settings)
    if given and named:
        return Key(given)
    if not given and not settings.local_key_path.exists():
        return Key()  # nearly everybody: nothing is loaded, and nobody is asked
    secret = _proven_secret(settings, address)
    if secret is None:
        if given:
            from hive.net.server_address import parse_server_address

            url = parse_server_address(address).url
            say_hints(
                f"The API key is not sent: the server at {url} does not prove that it is this user's.",
                f"export HIVE_HOST={url}  # if the key is for this one",
            )
        return Key()
    from hive.auth.local_key import read_local_key

    return Key(given or read_local_key(settings.local_key_path) or "", secret)


def given_key(settings: Settings) -> str:
    """The key that the environment gives; "" for none.

    Raises:
        CliError: it cannot be used, or others may read its file.
    """
    if not (settings.api_key or settings.api_key_file):
        return ""
    from hive.client.api_key import read_key

    try:
        return read_key(settings.api_key, settings.api_key_file) or ""
    except ValueError as error:
        raise CliError(str(error), exit_code=USAGE) from None


def _proven_secret(settings: Settings, address: str) -> bytes | None:
    """The secret key of this HIVE_HOME, where the server at this address is on this machine and proves to have it."""
    from hive.client import Client, HiveError
    from hive.client.connection import is_loopback

    with contextlib.suppress(OSError, HiveError), Client(address, api_key="") as client:
        secret = read_key_file(settings.secret_key_path)
        return secret if is_loopback(client.url) and client.proves(secret) else None
    return None
