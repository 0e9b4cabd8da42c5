"""Streams as Ollama's clients read them: lines of JSON (NDJSON), an error as the last one."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from hive import errors
from hive.wire.encoding import encode_json


def line(content: Any) -> bytes:
    """One line of a stream."""
    return encode_json(content) + b"\n"


class NdjsonResponse(StreamingResponse):
    """Lines as they come. What makes them is ended with the client, and `at_end` called, also where the client has gone
    before the first; an error of hive's is the last line.
    """

    def __init__(self, lines: AsyncGenerator[bytes, None], at_end: Callable[[], Awaitable[None]] | None = None) -> None:
        self._lines = lines
        self._at_end = at_end
        headers = {"cache-control": "no-store, no-transform", "x-accel-buffering": "no"}
        super().__init__(self._told(), media_type="application/x-ndjson", headers=headers)

    async def _told(self) -> AsyncGenerator[bytes, None]:
        try:
            async for each in self._lines:
                yield each
        except errors.HiveError as error:
            yield line({"error": error.message, "code": error.code})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._lines.aclose()
            if self._at_end is not None:  # lines that were not begun end nothing
                await self._at_end()
