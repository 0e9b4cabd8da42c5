"""Generated requests at real servers: no 5xx, no traceback, no answer that the document does not describe."""

from __future__ import annotations

import copy
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

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


#: What errors have for OpenAI's clients.
OPENAI = {"type": "invalid_request_error", "param": None}
RIGHT = b'{"status":"alive","version":"1","api_version":"v1"}'


class WrongAnswer(NamedTuple):
    """An answer that hive's document does not describe, and a word of what is said about it."""

    status: int
    media_type: str
    body: bytes
    said: str


def error(code: str) -> bytes:
    return json.dumps({"error": {"code": code, "message": "", "details": {}, "request_id": "", **OPENAI}}).encode()


WRONG = [
    WrongAnswer(500, "application/json", error("INTERNAL_ERROR"), "500"),
    WrongAnswer(202, "application/json", RIGHT, "202"),
    WrongAnswer(200, "text/plain", RIGHT, "text/plain"),
    WrongAnswer(200, "application/json", b'{"status":"alive"}', "version"),
    WrongAnswer(200, "application/json", RIGHT[:-1] + b',"more":1}', "more"),
    WrongAnswer(404, "application/json", error("NO"), "404"),
    WrongAnswer(400, "application/json", error("NO"), "NO"),
]


class WrongHandler(BaseHTTPRequestHandler):
    """A server that has a route of hive's document under several paths, and answers each in a way of its own."""

    def do_GET(self) -> None:
        if self.path == "/openapi.json":
            described = document()
            paths = {f"/{n}": health(described, n) for n in range(len(WRONG) + 1)}
            self.answer(200, "application/json", json.dumps({**described, "paths": paths}).encode())
        elif (number := int(self.path.strip("/"))) < len(WRONG):
            self.answer(*WRONG[number][:3])
        else:
            self.answer(200, "application/json", RIGHT)

    def do_POST(self) -> None:
        """A method that the document does not have."""
        self.answer(405, "application/json", error("METHOD_NOT_ALLOWED"))

    do_PUT = do_PATCH = do_DELETE = do_TRACE = do_OPTIONS = do_HEAD = do_QUERY = do_POST

    def answer(self, status: int, media_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", media_type)
        self.send_header("content-length", str(len(body)))
        self.send_header("x-request-id", "1")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def health(described: dict[str, Any], number: int) -> dict[str, Any]:
    """The route `/v1/health`, under an id that no other has."""
    path = copy.deepcopy(described["paths"]["/v1/health"])
    path["get"]["operationId"] += str(number)
    return dict(path)


@pytest.fixture(scope="module")
def said_of_paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What is said of each path, by its name."""
    with ThreadingHTTPServer(("127.0.0.1", 0), WrongHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        found = fuzz(f"http://127.0.0.1:{server.server_port}", tmp_path_factory.mktemp("wrong"), examples=1)
        server.shutdown()
    assert not found.passed
    parts = re.split(r"^_+ GET (/\d+) _+$", found.report, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_a_wrong_answer_is_found(said_of_paths: dict[str, str], number: int) -> None:
    assert WRONG[number].said in said_of_paths[f"/{number}"]


def test_a_right_answer_is_no_finding(said_of_paths: dict[str, str]) -> None:
    assert f"/{len(WRONG)}" not in said_of_paths
