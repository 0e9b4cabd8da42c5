"""Requests that break off, and bodies that are nonsense: an answer where somebody is there, and no noise in the log."""

from __future__ import annotations

import re
import socket
import uuid
from urllib.parse import urlsplit

import pytest
import requests

from tests.support.processes import Server

UUID = "11111111-0000-4000-8000-000000000000"
WITH_BODY = [
    ("POST", "/v1/models/download"),
    ("POST", "/v1/models/plan"),
    ("POST", "/v1/models/verify"),
    ("POST", "/v1/gc"),
    ("POST", f"/v1/downloads/{UUID}/retry"),
    ("PUT", f"/v1/downloads/{UUID}/priority"),
    ("PUT", "/v1/settings/bandwidth"),
    ("PUT", "/v1/settings/downloads"),
]


def break_off(server: Server, head: str, body: bytes) -> None:
    """Send this much of a request and reset the connection."""
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), 10) as client:
        client.sendall(f"{head}Host: {address.netloc}\r\n".encode() + body)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")


def said_by_then(server: Server, api: str, before: int) -> str:
    """What the log has gained when a request that comes afterwards has been answered and logged."""
    mark = uuid.uuid4().hex
    requests.post(f"{api}/v1/models/download", json={"model_ref": mark}, headers={"X-Request-ID": mark}, timeout=60)
    requests.get(f"{api}/v1/health", timeout=60)
    return server.output[before:]


@pytest.mark.parametrize(
    "rest",
    [
        b"Content-Length: 100\r\n\r\n{",
        b"Content-Length: 100\r\n\r\n",
        b'Transfer-Encoding: chunked\r\n\r\n5\r\n{"a"',
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}XX",
    ],
)
def test_a_body_that_breaks_off_leaves_no_traceback(server: Server, api: str, rest: bytes) -> None:
    before = len(server.output)
    for method, path in WITH_BODY:
        for _ in range(3):
            break_off(server, f"{method} {path} HTTP/1.1\r\n", rest)
    said = said_by_then(server, api, before)
    assert "Traceback" not in said, said[-3000:]
    # Each refused change has its audit line, up to a limit: docs/logs.md.
    others = [line for line in said.splitlines() if '"logger": "hive.audit"' not in line]
    assert len("\n".join(others)) < 2000, said[-3000:]


@pytest.mark.parametrize("path", ["/v1/downloads", "/metrics", "/v1/models", "/v1/workers", f"/v1/downloads/{UUID}"])
def test_a_client_that_goes_before_its_answer_leaves_no_traceback(server: Server, api: str, path: str) -> None:
    before = len(server.output)
    for _ in range(5):
        break_off(server, f"GET {path} HTTP/1.1\r\n", b"\r\n")
    said = said_by_then(server, api, before)
    assert "Traceback" not in said, said[-3000:]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xfe",
        b"{",
        b"[" * 60_000,
        b"[]",
        b"null",
        b'"x"',
        b'{"model_ref": "\\ud800"}',
        b'{"model_ref": {"a": 1}}',
        b'{"model_ref": "hf:a/b", "include": ["' + b"*" * 60_000 + b'"]}',
        b'{"model_ref": 1e999}',
        b'{"model_ref": "hf:a/b", "max_bytes_per_second": ' + b"9" * 5000 + b"}",
    ],
    ids=range(12),
)
def test_a_body_that_is_nonsense_is_answered_and_not_logged(server: Server, api: str, body: bytes) -> None:
    before = len(server.output)
    for method, path in WITH_BODY:
        if path.endswith(("gc", "verify", "retry")) and not body:
            continue
        answer = requests.request(method, f"{api}{path}", data=body, timeout=60)
        assert answer.status_code in (400, 404), (path, answer.text)
        assert answer.json()["error"]["code"]
    said = said_by_then(server, api, before)
    assert not re.search("Traceback|error", said), said[-3000:]
