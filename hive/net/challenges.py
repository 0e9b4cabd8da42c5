"""Proxy authentication: which schemes a proxy offers with its 407 (RFC 9110, 11.7).

Problem: a company's proxy that speaks NTLM or Negotiate only refuses whatever password it gets, and "the proxy refuses
the credentials" sends people looking for a typing error. What it offers stands in the header of an answer to CONNECT
that neither library hands on. So the head is looked at where it comes off the socket, and kept for the thread that
asked.
"""

from __future__ import annotations

import re
import threading
from typing import Final

#: Bytes of a head that are looked at.
MAX_HEAD_BYTES: Final = 8192
#: Schemes that hive speaks.
SPOKEN: Final = frozenset({"basic"})

_STATUS: Final = re.compile(rb"HTTP/1\.[01] 407\b")
_OFFER: Final = re.compile(rb"^proxy-authenticate:[ \t]*([A-Za-z][A-Za-z0-9._-]{0,30})", re.IGNORECASE | re.MULTILINE)


class _Heard(threading.local):
    schemes: tuple[str, ...] = ()


_heard = _Heard()


def note(head: bytes) -> None:
    """The first bytes of an answer: where they are a 407's, what it offers is kept for this thread."""
    if _STATUS.match(head):
        found = _OFFER.findall(head[:MAX_HEAD_BYTES])
        _heard.schemes = tuple(dict.fromkeys(scheme.decode("ascii") for scheme in found))


def unspoken() -> tuple[str, ...]:
    """The schemes that the last 407 of this thread offered, where hive speaks none of them; empty where it may. Asked
    once: the next 407 is another one.
    """
    schemes, _heard.schemes = _heard.schemes, ()
    return () if any(scheme.lower() in SPOKEN for scheme in schemes) else schemes
