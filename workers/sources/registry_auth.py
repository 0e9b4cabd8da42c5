"""Credentials of private registries, in the file that `docker login`, `podman login` and `oras login` write.

Problem: a registry that is not public wants a user and a password. The easy way, a field of the request as the Hub's
token has, would put them into every script, a queue and Redis. So they are in a file of the workers, which is read
where a registry is asked and nowhere else: no job, record, event, error or log has what stands in it.

An entry is for a host, or for a path on it, of which the longest counts: `ghcr.io`, `ghcr.io/org`. Whoever may pull may
have what it opens.

    {"auths": {"ghcr.io/org": {"auth": "<base64 of user:password>"}}}

Written after docker/cli (config/configfile/file.go) and containers/image (docs/containers-auth.json.5.md).
"""

from __future__ import annotations

import base64
import binascii
import os
import stat
from pathlib import Path
from typing import Final

import msgspec

from hive.errors import ModelAccessDenied
from hive.given_file import read_given_file
from hive.key_file import is_private
from hive.net.tls import is_null_device
from hive.settings import Settings
from hive.wire.registries import RegistryName

#: The setting that names the file.
SETTING: Final = "HIVE_REGISTRY_AUTH_FILE"
#: Bytes of the file.
MAX_BYTES: Final = 1 << 20
#: What Docker calls its own registry in this file.
_DOCKER_HUB: Final = ("docker.io", "index.docker.io/v1", "index.docker.io")


class _Entry(msgspec.Struct):
    auth: str = ""
    username: str = ""
    password: str = ""
    identitytoken: str = ""


class _File(msgspec.Struct):
    auths: dict[str, _Entry] = {}


def basic_credentials(settings: Settings, host: str, name: RegistryName) -> str | None:
    """What follows `Authorization: ` at the registry `host` (`host:port`) for a repository; None where the file has
    nothing for it, or there is none.

    Raises:
        ModelAccessDenied: the file cannot be used. The text names it, and nothing that stands in it.
    """
    if not settings.registry_auth_file or is_null_device(settings.registry_auth_file):
        return None
    path = Path(settings.registry_auth_file).expanduser().absolute()
    try:
        entries = msgspec.json.decode(read_given_file(path, MAX_BYTES, _check), type=_File).auths
    except OSError as error:
        raise _unusable(host, path, f"it cannot be read: {error.strerror or error}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise _unusable(host, path, 'it is not of the form {"auths": {"host": {"auth": "..."}}}') from None
    by_place = {_place(key): entry for key, entry in entries.items()}
    for wanted in _places(host, name):
        if (entry := by_place.get(wanted)) is not None:
            return _header(entry, host, path, wanted)
    return None


def _check(status: os.stat_result) -> None:
    if stat.S_ISREG(status.st_mode) and not is_private(status):
        raise PermissionError(0, f"others may read it (mode {stat.S_IMODE(status.st_mode):04o}): chmod 600")


def _places(host: str, name: RegistryName) -> list[str]:
    """What an entry for this repository may be called, the narrowest first."""
    hosts = _DOCKER_HUB if name.host == "docker.io" else (host.lower(),)
    parts = name.path.split("/")
    paths = ["/".join(parts[:count]) for count in range(len(parts), 0, -1)]
    return [*(f"{each}/{path}" for path in paths for each in hosts), *hosts]


def _place(key: str) -> str:
    """An entry's name without what Docker writes around it."""
    return key.removeprefix("https://").removeprefix("http://").rstrip("/").removesuffix("/v2")


def _header(entry: _Entry, host: str, path: Path, place: str) -> str:
    shown = place[:120]
    if entry.auth:
        try:
            pair = base64.b64decode(entry.auth, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            raise _unusable(host, path, f"`auth` of {shown!r} is no base64 of user:password") from None
    else:
        pair = f"{entry.username}:{entry.password}"
    user, colon, password = pair.partition(":")
    if not (user and colon and password):
        found = "an `identitytoken`" if entry.identitytoken else "no user and password (a helper may keep them)"
        raise _unusable(host, path, f"{shown!r} has {found}; log in with a user and an access token as password")
    return f"Basic {base64.b64encode(pair.encode()).decode()}"


def _unusable(host: str, path: Path, why: str) -> ModelAccessDenied:
    return ModelAccessDenied(f"{SETTING} names {path}, which cannot be used: {why}.", host=host)
