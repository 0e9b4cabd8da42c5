"""The gate around an application that fails: it is answered like every other error, and told to the log."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from hive.api.gate import Gate

pytestmark = pytest.mark.anyio


async def ask(gate: Gate) -> list[dict[str, Any]]:
    """The messages of an answer."""
    sent: list[dict[str, Any]] = []

    async def send(message: Message) -> None:
        sent.append(dict(message))

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    scope: Scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "path": "/v1/models/download/progress",
        "query_string": b"",
        "headers": [(b"host", b"localhost"), (b"x-request-id", b"abc-1")],
        "server": ("127.0.0.1", 8080),
    }
    await gate(scope, receive, send)
    return sent


async def test_a_mistake_outside_of_the_routes_is_answered_as_json_with_the_request_id(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fails(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("canary")

    with caplog.at_level(logging.ERROR):
        start, body = await ask(Gate(fails))
    assert start["status"] == 500
    assert dict(start["headers"])[b"x-request-id"] == b"abc-1"
    error = json.loads(body["body"])["error"]
    assert (error["code"], error["request_id"]) == ("INTERNAL_ERROR", "abc-1")
    assert "canary" not in body["body"].decode()
    assert any(record.exc_info for record in caplog.records)


async def test_a_mistake_after_the_head_is_the_servers_to_end(caplog: pytest.LogCaptureFixture) -> None:
    async def fails_late(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("canary")

    with pytest.raises(RuntimeError):
        await ask(Gate(fails_late))


async def test_what_a_server_that_stops_does_not_wait_for_is_answered_and_no_mistake(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def waits(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.Event().wait()

    task = asyncio.create_task(ask(Gate(waits)))
    await asyncio.sleep(0)  # it has begun to wait
    task.cancel("as uvicorn does")
    start, body = await task
    assert (start["status"], dict(start["headers"])[b"retry-after"]) == (503, b"1")
    assert json.loads(body["body"])["error"]["code"] == "SERVER_BUSY"
    assert not caplog.records
