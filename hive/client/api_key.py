"""Which API key a client sends, and to whom.

A key is a password for one server, and whoever gets it can use it there. So it goes to a server that somebody named,
and never to one that merely answers: a key from the environment (HIVE_API_KEY, or the file in HIVE_API_KEY_FILE) goes
to the server in HIVE_HOST; where HIVE_HOST is not set, to the one whose address the program gives.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from hive.given_file import read_given_file
from hive.key_file import is_private
from hive.net.server_address import parse_server_address
from hive.net.variables import bare, expanded

#: Characters of the longest key that is read; those of hive have 57.
MAX_KEY_CHARS: Final = 512
#: Bytes of the longest file with one: there may be blanks around it.
MAX_KEY_FILE_BYTES: Final = 16_384


def key_from_env(address: str | None, env: Mapping[str, str] | None = None) -> str | None:
    """The key of the environment for a server at this address (None: the program gave none); None where there is none,
    or it is for another server.

    Raises:
        ValueError: the key or its file cannot be used; the text says what to do, and nothing of the key.
    """
    given = _said(env)
    key = read_key(given["HIVE_API_KEY"], given["HIVE_API_KEY_FILE"])
    named = given["HIVE_HOST"] or None
    if key is None or (named is None and address is None):
        return None
    return key if named is None or address is None or _is_same(named, address) else None


def has_key(env: Mapping[str, str] | None = None) -> bool:
    """Whether the environment has a key, for whichever server."""
    given = _said(env)
    return bool(given["HIVE_API_KEY"] or given["HIVE_API_KEY_FILE"])


def is_host_named(env: Mapping[str, str] | None = None) -> bool:
    """Whether HIVE_HOST names a server, also where it names the default one."""
    return bool(_said(env)["HIVE_HOST"])


def read_key(text: str | None, file: str | None) -> str | None:
    """A key as it was given, else the one in the file; None where neither is given.

    Raises:
        ValueError: see above.
    """
    if text and text.strip():
        return _checked(text.strip(), "HIVE_API_KEY")
    return _checked(_read(Path(file).expanduser()), f"HIVE_API_KEY_FILE ({file})") if file else None


def _said(env: Mapping[str, str] | None) -> dict[str, str]:
    """The variables that are read here, as settings read them; "" for one that is not set."""
    environ = os.environ if env is None else env
    said = {name: bare(environ.get(name, "")) for name in ("HIVE_HOST", "HIVE_API_KEY", "HIVE_API_KEY_FILE")}
    return said | {"HIVE_API_KEY_FILE": expanded(said["HIVE_API_KEY_FILE"], environ)}


def _read(path: Path) -> str:
    def check(status: os.stat_result) -> None:
        if stat.S_ISREG(status.st_mode) and not is_private(status):
            raise ValueError(f"HIVE_API_KEY_FILE: others may read {path}. What to do: chmod 600 {path}")

    try:
        return read_given_file(path, MAX_KEY_FILE_BYTES, check).decode("latin-1").strip()
    except OSError as error:
        raise ValueError(f"HIVE_API_KEY_FILE: {path} cannot be read: {error.strerror or error}.") from None


def _checked(key: str, where: str) -> str:
    if not key or len(key) > MAX_KEY_CHARS or not all("!" <= char <= "~" for char in key):
        raise ValueError(f"{where} holds no API key.")
    return key


def _is_same(one: str, other: str) -> bool:
    first, second = (parse_server_address(text)._replace(credentials="").url for text in (one, other))
    return first == second
