"""Generated requests at real servers: no 5xx, no traceback, no answer that the document does not describe."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.fuzz.running import fuzz
from tests.fuzz.world import alone, shared
from tests.support.openapi import document

pytestmark = pytest.mark.slow

#: Requests for each operation, beside some twenty that the bounds of its schema suggest. For more: scripts/fuzz.
EXAMPLES = 5


def test_a_server_without_keys_and_workers_answers_as_its_document_says(redis_url: str, tmp_path: Path) -> None:
    # Without workers a plan is WORKERS_SILENT, which takes its time to say.
    with alone(redis_url, tmp_path) as world:
        found = fuzz(world.server.url, tmp_path, examples=EXAMPLES, known=world.known, without=("/v1/models/plan",))
    assert found.passed, found.report
    assert found.requests > 500


def test_a_server_with_keys_workers_and_a_hub_answers_as_its_document_says(redis_url: str, tmp_path: Path) -> None:
    with shared(redis_url, tmp_path) as world:
        found = fuzz(world.server.url, tmp_path, examples=EXAMPLES, known=world.known, headers=world.headers)
    assert found.passed, found.report
    assert found.requests > 500


class Wrong(BaseHTTPRequestHandler):
    """A server that has hive's document, and one route that answers otherwise."""

    status, media_type, body = 200, "application/json", b"{}"

    def do_GET(self) -> None:
        if self.path == "/openapi.json":
            paths = {"/v1/health": document()["paths"]["/v1/health"]}
            self.answer(200, "application/json", json.dumps({**document(), "paths": paths}).encode())
        else:
            self.answer(self.status, self.media_type, self.body)

    def answer(self, status: int, media_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", media_type)
        self.send_header("content-length", str(len(body)))
        self.send_header("x-request-id", "1")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def wrong() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Wrong) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


RIGHT = b'{"status":"alive","version":"1","api_version":"v1"}'


@pytest.mark.parametrize(
    ("status", "media_type", "body", "said"),
    [
        (
            500,
            "application/json",
            b'{"error":{"code":"INTERNAL_ERROR","message":"","details":{},"request_id":""}}',
            "500",
        ),
        (202, "application/json", RIGHT, "202"),
        (200, "text/plain", RIGHT, "text/plain"),
        (200, "application/json", b'{"status":"alive"}', "version"),
        (200, "application/json", RIGHT[:-1] + b',"more":1}', "more"),
        (404, "application/json", b'{"error":{"code":"NO","message":"","details":{},"request_id":""}}', "404"),
        (400, "application/json", b'{"error":{"code":"NO","message":"","details":{},"request_id":""}}', "NO"),
    ],
)
def test_a_wrong_answer_is_found(
    wrong: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, status: int, media_type: str, body: bytes, said: str
) -> None:
    for name, value in (("status", status), ("media_type", media_type), ("body", body)):
        monkeypatch.setattr(Wrong, name, value)
    found = fuzz(wrong, tmp_path, examples=1)
    assert not found.passed
    assert said in found.report
