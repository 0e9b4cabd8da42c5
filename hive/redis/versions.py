"""Known holes of Redis and Valkey, by the version that INFO names.

Problem: whoever may run a script in Redis runs code on its machine through some of its holes (CVE-2025-49844), and
hive's own user must be allowed to run scripts; nobody looks at the version of a server that works. The easy way, to
refuse every old number, punishes those whose distribution mended it without a new number (Debian's 7.0.15-1~deb12u6).
So a version with a hole is a warning at the start, with the release that closes it; HIVE_REDIS_HOLES makes it a
refusal, or nothing. A hole counts where somebody could use it: what needs RESTORE or TLS does not where only this
user's programs can connect.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple

from hive.redis.info import word

#: major, minor, patch
Version = tuple[int, int, int]
#: Other servers that call themselves a version of Redis, by what they put into INFO.
_OTHERS: Final = {"dragonfly_version": "Dragonfly", "garnet_version": "Garnet", "mvcc_depth": "KeyDB"}


class Hole(NamedTuple):
    """A published hole, and the first releases without it."""

    name: str
    #: Who can use it: whoever may run scripts, whoever may RESTORE, whoever reaches the TLS port.
    reach: Literal["scripts", "restore", "tls"]
    redis: tuple[str, ...] = ()
    valkey: tuple[str, ...] = ()
    #: Whether series older than these, which got no release of their own, have it too.
    is_in_older: bool = False

    def fix_for(self, product: str, version: Version) -> str | None:
        """The release that closes it for a server that has it; None for one that does not, as far as is known."""
        fixes: tuple[str, ...] = self.valkey if product == "Valkey" else self.redis
        for fix in fixes:
            fixed = _parse(fix)
            if fixed[:2] == version[:2]:
                return fix if version < fixed else None
        later = [fix for fix in fixes if _parse(fix) > version]
        return later[0] if later and self.is_in_older else None


#: Those that let somebody run code on Redis's machine. Ordered by series within each product.
HOLES: Final = (
    Hole(
        "CVE-2025-49844",
        "scripts",
        redis=("6.2.20", "7.2.11", "7.4.6", "8.0.4", "8.2.2"),
        valkey=("7.2.11", "8.0.6", "8.1.4"),
        is_in_older=True,
    ),
    Hole("CVE-2026-25243", "restore", redis=("7.4.9", "8.2.6", "8.4.3", "8.6.3"), valkey=("8.1.7", "9.0.4")),
    Hole("CVE-2026-63639", "restore", valkey=("8.1.9", "9.0.5", "9.1.1")),
    Hole("CVE-2026-56684", "tls", valkey=("8.1.9", "9.0.5", "9.1.1")),
    Hole(
        "CVE-2026-81934",
        "tls",
        redis=("6.2.24", "7.2.16", "7.4.11", "8.2.9", "8.4.6", "8.6.6", "8.8.2", "8.10.1"),
        is_in_older=True,
    ),
)


def holes(info: Mapping[str, Any], *, is_private: bool, is_tls: bool) -> str | None:
    """A sentence about the holes of a server, by its answer to INFO, with the release that has none of them; None where
    it has none that counts. `is_private`: only programs of this user can connect.
    """
    if other_server(info) is not None:
        return None
    product = "Valkey" if info.get("valkey_version") else "Redis"
    text = word(info, "valkey_version") or word(info, "redis_version")
    try:
        version = _parse(text)
    except ValueError:
        return None
    counting = [hole for hole in HOLES if _counts(hole, is_private=is_private, is_tls=is_tls)]
    found = {hole.name: fix for hole in counting if (fix := hole.fix_for(product, version))}
    if not found:
        return None
    fix = max(found.values(), key=_parse)
    return (
        f"{product} {text} has known holes ({', '.join(found)}), closed in {fix}. Distributions close them without a"
        " new number: where yours has, set HIVE_REDIS_HOLES=ignore."
    )


def other_server(info: Mapping[str, Any]) -> str | None:
    """The name of a server that only speaks Redis' protocol; None for Redis and Valkey."""
    return next((name for mark, name in _OTHERS.items() if mark in info), None)


def _counts(hole: Hole, *, is_private: bool, is_tls: bool) -> bool:
    return hole.reach == "scripts" or (hole.reach == "restore" and not is_private) or (hole.reach == "tls" and is_tls)


def _parse(text: str) -> Version:
    """Raises ValueError where it is no version."""
    major, minor, patch = (int(part) for part in text.split(".")[:3])
    return major, minor, patch
