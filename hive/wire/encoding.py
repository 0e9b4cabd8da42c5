"""JSON of whatever text there is: names on a disk are bytes, and not all of them are Unicode.

Problem: Python reads such a name as text with lone surrogates, which no UTF-8 holds. So one stray file in a store, an
old ISO-8859-1 name say, made the list of all models a failure. The easy way, to check each name where it is read, is
forgotten at the next place. So it is done where text leaves: what is no Unicode is shown as U+FFFD, and everything
else is encoded as fast as before.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

_SURROGATES = re.compile("[\ud800-\udfff]")


def encode_json(value: Any) -> bytes:
    """The value as one line of JSON."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return msgspec.json.encode(_shown(msgspec.to_builtins(value, enc_hook=msgspec.json.decode)))


def _shown(value: Any) -> Any:
    if isinstance(value, str):
        return _SURROGATES.sub("\ufffd", value)
    if isinstance(value, dict):
        return {_shown(key): _shown(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_shown(item) for item in value]
    return value
