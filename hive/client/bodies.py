"""Bodies of requests as JSON."""

from __future__ import annotations

from typing import Final

import msgspec

from hive.errors import BadRequest

#: What every body goes out as.
JSON: Final = {"Content-Type": "application/json"}


def encode_body(body: object) -> bytes:
    """The body as JSON.

    Raises:
        BadRequest: a text in it is not UTF-8, as arguments of a shell may be. It is not shown: it may be a token.
    """
    try:
        return msgspec.json.encode(body)
    except UnicodeEncodeError:
        text = "A text of this request is not UTF-8. In a URL write its other bytes percent-encoded, as in caf%E9."
        raise BadRequest(text) from None
