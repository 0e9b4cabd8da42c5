"""Lua scripts: files beside the modules that use them, called with their keys and arguments by name.

Problem: a script gets KEYS and ARGV as two lists, and a call that has two of twelve positions the wrong way round is
valid. Text inside Python has no editor that knows it. So a script is a file of its package, which opens by giving
names to what it takes:

    local record, leases = unpack(KEYS)
    local id, fence, lease_ms = unpack(ARGV)

The same two lines say in which order `Script` passes what its caller names. `--! include NAME` puts in another file
of the same folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from importlib import resources
from typing import Any, Final

from hive.redis.client import RedisClient

_INCLUDE: Final = re.compile(r"^--! include (\w+)$", re.MULTILINE)
_NAMES: Final = re.compile(r"^local ([\w, ]+) = unpack\((KEYS|ARGV)\)$", re.MULTILINE)


def load(package: str, name: str) -> str:
    """The text of `scripts/NAME.lua` in this package, with what it includes."""
    folder = resources.files(package) / "scripts"
    text = folder.joinpath(f"{name}.lua").read_text("utf-8")
    return _INCLUDE.sub(lambda found: folder.joinpath(f"{found[1]}.lua").read_text("utf-8").rstrip("\n"), text)


def names_of(source: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What a script calls its KEYS and its ARGV, in their order."""
    found = {kind: tuple(names.split(", ")) for names, kind in _NAMES.findall(source)}
    return found.get("KEYS", ()), found.get("ARGV", ())


class Script:
    """One script on one client. Calls raise redis-py's errors."""

    def __init__(self, client: RedisClient, source: str) -> None:
        self._call = client.register_script(source)
        self._keys, self._args = names_of(source)
        self._named = frozenset(self._keys + self._args)

    def __call__(
        self, rest: Iterable[Any] = (), *, all_keys: Sequence[str] = (), client: RedisClient = None, **named: Any
    ) -> Any:
        """What the script returns. `rest` follows the named arguments; `all_keys` are the keys of a script that takes
        any number of them; `client` may be a pipeline, which calls it later.

        Raises:
            TypeError: a name is missing, or is none of the script's.
        """
        if named.keys() != self._named:
            wrong = sorted(named.keys() ^ self._named)
            raise TypeError(f"the script takes {', '.join(self._keys + self._args)}; wrong or missing: {wrong}")
        keys = [named[name] for name in self._keys]
        return self._call(
            keys=keys or list(all_keys), args=[*(named[name] for name in self._args), *rest], client=client
        )
