"""Scopes: what a key may do. Each route names the one that it needs (hive/api/app.py)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal, get_args

Scope = Literal["read", "pull", "run", "admin"]

#: All of them, in the order of what they allow.
SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)


def with_implied(scopes: Iterable[Scope]) -> frozenset[Scope]:
    """The scopes, and those that they hold: admin holds all."""
    given = frozenset(scopes)
    return frozenset(SCOPES) if "admin" in given else given
