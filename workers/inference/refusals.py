"""The engine's refusals on their way to a client: what the client can mend is told as its mistake.

Problem: the engine answers 500 to a picture for a model that sees none, and to a text that is longer than it takes.
The clients of OpenAI's API try such a request again, twice, and then call it a fault of the server. The easy way, to
look at each request first, would be to count its tokens. So an answer of 500, which is short, is held until its end,
and goes on as 400 where the engine's words say what it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from hive.serving.relay import Downstream
from hive.wire.encoding import encode_json

#: What the engine says of mistakes that are the request's.
_MISTAKES: Final = ("input is not supported", "is too large to process")
#: Bytes of an answer that is held; a longer one goes on as it is.
MAX_HELD_BYTES: Final = 65_536


class ToldApart:
    """The answer to our client, behind which an error of the engine gets its right status."""

    def __init__(self, down: Downstream) -> None:
        self._down = down
        self._head: list[tuple[bytes, bytes]] | None = None
        self._held = bytearray()

    @property
    def on_gone(self) -> Callable[[], None] | None:
        """What is called when the client goes."""
        return self._down.on_gone

    @on_gone.setter
    def on_gone(self, call: Callable[[], None] | None) -> None:
        self._down.on_gone = call

    @property
    def on_writable(self) -> Callable[[], None] | None:
        """What is called when the client takes more."""
        return self._down.on_writable

    @on_writable.setter
    def on_writable(self, call: Callable[[], None] | None) -> None:
        self._down.on_writable = call

    @property
    def paused(self) -> bool:
        """Whether the client has not taken what it was sent."""
        return self._down.paused

    def start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Begin, or hold what begins."""
        if status == 500:
            self._head = headers
        else:
            self._down.start(status, headers)

    def write(self, data: bytes) -> None:
        """A piece of the body."""
        if self._head is None:
            self._down.write(data)
            return
        self._held += data
        if len(self._held) > MAX_HELD_BYTES:
            self._let_go(500)

    def end(self) -> None:
        """The end."""
        if self._head is not None and (told := _mistake(bytes(self._held))):
            self._held[:] = told
            self._let_go(400)
        self._let_go(500)
        self._down.end()

    def cut(self) -> None:
        """No end: something is missing."""
        self._let_go(500)
        self._down.cut()

    def _let_go(self, status: int) -> None:
        head, self._head = self._head, None
        if head is not None:
            self._down.start(status, head)
            self._down.write(bytes(self._held))


def _mistake(body: bytes) -> bytes:
    """The body that says so, where the engine's error is one of the request's; else nothing."""
    try:
        found: Any = msgspec.json.decode(body)
        message = str(found["error"]["message"])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError, TypeError):
        return b""
    if not any(words in message for words in _MISTAKES):
        return b""
    return encode_json({"error": {**found["error"], "code": 400, "type": "invalid_request_error", "param": None}})
