"""Answers as Ollama's clients read them: errors as one sentence, and streams as lines of JSON (NDJSON)."""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from hive import errors
from hive.api.json import JsonResponse
from hive.wire.encoding import encode_json

Handler = Callable[[Request], Awaitable[Response]]


def refusal(error: errors.HiveError, status: int = 0) -> Response:
    """An error: `{"error": "text"}`, and hive's code beside it; with its own status, or another."""
    status = status or error.status
    headers = {"retry-after": "1"} if status in (429, 503) else None
    return JsonResponse({"error": error.message, "code": error.code}, status_code=status, headers=headers)


def told_simply(handler: Handler) -> Handler:
    """The handler, whose errors are told so."""

    @functools.wraps(handler)
    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except errors.HiveError as error:
            return refusal(error)

    return answer


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
