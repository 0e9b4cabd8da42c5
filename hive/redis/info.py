"""INFO, read as what it is: text of another program, whose values redis-py turns into whatever they look like.

A value that should be a number may be a word, a list or infinity (a proxy, a server that only speaks the protocol),
and one that cannot be read must neither end a process that starts nor a loop that watches. So nothing is converted that
need not be, and an answer that is none is no answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

#: Characters of a value that are read.
MAX_WORD_CHARS: Final = 64
#: What redis-py raises over an answer that it cannot read.
_UNREADABLE: Final = (ValueError, TypeError, AttributeError, LookupError, ArithmeticError)


def read_info(client: Any, *sections: str) -> dict[str, Any]:
    """What INFO says, of these sections or of all; empty where the answer is none. Raises redis-py's errors."""
    try:
        found: Any = client.info(*sections)
    except _UNREADABLE:
        return {}
    return found if isinstance(found, dict) else {}


def word(info: Mapping[str, Any], name: str) -> str:
    """A value as one line of text, cut; "" without it."""
    found = info.get(name)
    return "" if found is None else " ".join(str(found).split())[:MAX_WORD_CHARS]


def is_set(info: Mapping[str, Any], name: str) -> bool:
    """Whether a limit is set. One that is no number is: what it means is not known, but it is not none."""
    return info.get(name) not in (None, 0, "")
