"""The Hub token of a pull: where it comes from, and which servers may see it.

A token is never an argument: arguments are seen by every user of the machine and kept by shells. It comes from
HF_TOKEN, from a file, or from standard input. It goes to a server on this machine or behind https. Over plain http to
another machine everyone on the way could read it: there HF_TOKEN stays at home without a word, because nobody asked for
it to be sent, and a token that was named on the command line is an error, because somebody did. The file that `hf auth
login` writes is not sent: workers on this machine read it themselves, and others have tokens of their own.

Anybody on this machine may listen on a port. So a server proves first that it has the key of this HIVE_HOME
(wire/proof.py). One that cannot, such as one in a container, sees a token only when both were named: the server by
HIVE_HOST, the token by an option.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hive.cli.errors import USAGE, CliError, say_hints
from hive.given_file import read_given_file
from hive.key_file import read_key_file
from hive.settings import DEFAULT_ADDRESS, Settings

if TYPE_CHECKING:
    from hive.client import Client

#: Characters of the longest token that is read; the Hub's have 37.
MAX_TOKEN_CHARS = 512
#: Bytes of the longest file with one: there may be blanks around it.
MAX_TOKEN_FILE_BYTES = 16_384


class HubToken(NamedTuple):
    """A token, if there is one, and whether it was named on the command line."""

    value: str | None = None
    named: bool = False
    #: The key that a server must have to see it unasked, and whether the server was named by HIVE_HOST.
    key_file: Path | None = None
    server_named: bool = False

    def for_client(self, client: Client, *, quiet: bool = False) -> str | None:
        """The token to send to this client's server, or None: it is not ours, and was not asked to see it. `quiet`:
        nothing is said of that.

        Raises:
            CliError: when it was named on the command line, and the way there is not safe or the server not known.
        """
        value = self.for_server(client.url)
        if value is None or client.url.startswith("https://") or (self.named and self.server_named):
            return value
        if client.proves(_read_key(self.key_file)):
            return value
        if self.named:
            raise CliError(
                f"The server at {client.url} does not prove that it is this user's, and is not sent a token.",
                f"export HIVE_HOST={client.url}",
                exit_code=USAGE,
            )
        if not quiet:
            say_hints(f"HF_TOKEN is not sent: the server at {client.url} does not prove that it is this user's.")
        return None

    def for_server(self, url: str) -> str | None:
        """The token to send to this server, or None.

        Raises:
            CliError: when it was named on the command line and the way there is not safe.
        """
        from hive.client.connection import is_loopback

        if self.value is None or url.startswith("https://") or is_loopback(url):
            return self.value
        if self.named:
            raise CliError(
                f"A token is not sent over plain http to {url}.",
                "use an https address, or set HF_TOKEN for the workers there",
                exit_code=USAGE,
            )
        return None

    def __repr__(self) -> str:
        return f"HubToken({'***' if self.value else None}, named={self.named})"


def read_token(settings: Settings, file: str | None, *, from_stdin: bool, none: bool) -> HubToken:
    """The token that the options and the environment give.

    Raises:
        CliError: when the options contradict each other, or there is no token where they say.
    """
    if sum((file is not None, from_stdin, none)) > 1:
        raise CliError("Give only one of --token-file, --token-stdin and --no-token.", exit_code=USAGE)
    if none:
        return HubToken()
    of_settings: dict[str, Any] = {
        "key_file": settings.secret_key_path,
        "server_named": settings.host != DEFAULT_ADDRESS,
    }
    if file is None and not from_stdin:
        return HubToken(settings.hf_token.strip() if settings.hf_token else None, **of_settings)
    try:
        text = sys.stdin.read(MAX_TOKEN_CHARS + 2) if file is None else _read_start(Path(file))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise CliError(
            f"The token cannot be read from {file or 'standard input'}: {reason}.", exit_code=USAGE
        ) from None
    value = text.strip()
    if not value or len(value) > MAX_TOKEN_CHARS or not all("!" <= char <= "~" for char in value):
        raise CliError(f"{file or 'Standard input'} holds no token.", exit_code=USAGE)
    return HubToken(value, named=True, **of_settings)


def _read_key(path: Path | None) -> bytes:
    """The key of HIVE_HOME; empty where there is none that this user may read."""
    try:
        return read_key_file(path) if path is not None else b""
    except OSError:
        return b""


def _read_start(path: Path) -> str:
    return read_given_file(path.expanduser(), MAX_TOKEN_FILE_BYTES).decode()
