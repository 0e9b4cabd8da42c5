"""Streams as Ollama's clients read them: lines of JSON (NDJSON), an error as the last one."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from hive import errors
from hive.wire.encoding import encode_json


def line(content: Any) -> bytes:
    """One line of a stream."""
    return encode_json(content) + b"\n"


class NdjsonResponse(StreamingResponse):
    """Lines as they come. What makes them is ended with the client; an error of hive's is the last line."""

    def __init__(self, lines: AsyncGenerator[bytes, None]) -> None:
        self._lines = lines
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
