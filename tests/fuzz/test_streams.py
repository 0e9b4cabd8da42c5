"""The two event streams, asked in every way that their parameters allow, and read a little."""

from __future__ import annotations

import http.client
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlencode

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hive.processes.embedded_redis import EmbeddedRedis
from hive.wire.api import MANY_PATH, PROGRESS_PATH
from tests.fuzz.world import World, alone
from tests.support import api_samples
from tests.support.openapi import check_answer, operation_at, validate

pytestmark = pytest.mark.slow

#: Bytes that a stream is read, and seconds for which it may say nothing.
READ_BYTES, SILENCE_S = 2000, 0.3

KNOWN = [api_samples.QUEUED, api_samples.PAUSED, api_samples.COMPLETE, api_samples.FAILED, api_samples.CANCELLED]
TEXT = st.text(max_size=60)
IDS = st.sampled_from([*KNOWN, *(known.upper() for known in KNOWN), api_samples.UNKNOWN]) | TEXT
EVENT_IDS = (
    st.builds("{}-{}".format, st.integers(0, 10**14), st.integers(0, 10**9))
    | st.just(f"{api_samples.MADE_MS}-1")
    | TEXT
    | st.text("0123456789-", max_size=60)
)
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | TEXT, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner)
).map(lambda value: json.dumps(value).encode())
HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "Accept": st.sampled_from(["text/event-stream", "*/*", "TEXT/EVENT-STREAM;q=0", ""]),
        "Last-Event-ID": EVENT_IDS.map(lambda text: quote(text, safe="-")),
    },
)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with tempfile.TemporaryDirectory(prefix="hive-") as name:
        folder = Path(name)
        with EmbeddedRedis(folder / "redis") as redis, alone(redis.url, folder) as made:
            yield made


def ask(world: World, method: str, address: str, headers: dict[str, str]) -> int:
    """Ask, read the beginning, and compare it with the document. The status."""
    operation = operation_at("GET", address.partition("?")[0])
    connection = http.client.HTTPConnection("127.0.0.1", world.server.port, timeout=60)
    try:
        connection.request(method, address, headers=headers)
        socket = connection.sock  # an answer that closes the connection takes it away
        answer = connection.getresponse()
        media_type = answer.headers.get("content-type", "")
        assert answer.headers["x-request-id"]
        if method == "HEAD":
            assert answer.read() == b""
        elif media_type != "text/event-stream":
            body = answer.read().decode()
            check_answer(operation if answer.status != 405 else None, answer.status, media_type, body)
        else:
            assert operation is not None
            frame = operation["responses"]["200"]["content"]["text/event-stream"]["x-item-schema"]
            socket.settimeout(SILENCE_S)
            check_frames(frame, beginning(answer))
        return answer.status
    finally:
        connection.close()


def beginning(answer: http.client.HTTPResponse) -> str:
    """What a stream says first, in whole frames."""
    found = b""
    try:
        while len(found) < READ_BYTES and (piece := answer.read1(READ_BYTES)):
            found += piece
    except TimeoutError:
        pass
    return found.decode().rpartition("\n\n")[0]


def check_frames(schema: dict[str, object], text: str) -> None:
    for block in filter(None, text.split("\n\n")):
        fields = {}
        for line in block.split("\n"):
            name, colon, value = line.partition(":")
            assert colon, f"no field: {line!r}"
            if name:
                fields[name] = value.removeprefix(" ")
        found: dict[str, object] = dict(fields)
        if "retry" in fields:
            found["retry"] = int(fields["retry"])
        validate(schema, found)
        if (data := fields.get("data", "[DONE]")) != "[DONE]":
            validate({"$ref": "#/components/schemas/Event"}, json.loads(data))


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    method=st.sampled_from(["GET", "GET", "GET", "HEAD", "POST", "DELETE"]),
    ids=st.lists(IDS, max_size=2),
    more=st.fixed_dictionaries({}, optional={"last_event_id": EVENT_IDS, "ticket": TEXT, "x": TEXT}),
    headers=HEADERS,
)
def test_the_stream_of_one_answers_as_the_document_says(
    world: World, method: str, ids: list[str], more: dict[str, str], headers: dict[str, str]
) -> None:
    query = urlencode([*(("id", download_id) for download_id in ids), *more.items()])
    assert ask(world, method, f"{PROGRESS_PATH}?{query}", headers) < 500


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    method=st.sampled_from(["GET", "GET", "GET", "HEAD", "POST"]),
    ids=st.lists(IDS, max_size=3) | st.just([api_samples.UNKNOWN] * 101) | st.just(KNOWN),
    more=st.fixed_dictionaries({}, optional={"status": st.sampled_from(["active", "", "ended"]) | TEXT}),
    headers=HEADERS,
)
def test_the_stream_of_many_answers_as_the_document_says(
    world: World, method: str, ids: list[str], more: dict[str, str], headers: dict[str, str]
) -> None:
    query = urlencode([*(("id", download_id) for download_id in ids), *more.items()])
    assert ask(world, method, f"{MANY_PATH}?{query}", headers) < 500


@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    path=st.sampled_from(
        [
            *("/v1/models/download", "/v1/models/verify", "/v1/gc", "/v1/tickets", "/v1/settings/downloads"),
            *(f"/v1/downloads/{api_samples.FAILED}/retry", f"/v1/downloads/{api_samples.QUEUED}/priority"),
        ]
    ),
    body=st.binary(max_size=200)
    | ANY_JSON
    | st.integers(1, 30_000).map(lambda depth: b"[" * depth)
    | st.integers(1, 5_000).map(lambda digits: b'{"max_running":' + b"9" * digits + b"}")
    | TEXT.map(lambda text: json.dumps({"model_ref": text}).encode())
    | st.just(rb'{"model_ref":"\ud800"}'),
)
def test_bodies_that_are_no_json_or_another_are_refused_as_the_document_says(
    world: World, path: str, body: bytes
) -> None:
    method = "PUT" if path.endswith(("/downloads", "/priority")) else "POST"
    connection = http.client.HTTPConnection("127.0.0.1", world.server.port, timeout=60)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        text = answer.read().decode()
    finally:
        connection.close()
    assert answer.status < 500, text
    check_answer(operation_at(method, path), answer.status, answer.headers["content-type"], text)
