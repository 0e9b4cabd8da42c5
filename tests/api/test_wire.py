"""The wire to the letter: what the clients of the original read, and what an EventSource reads, byte by byte."""

from __future__ import annotations

import json
import socket
from typing import Any
from urllib.parse import urlsplit

import pytest

from hive.downloads.context import DownloadContext
from hive.wire.api import MANY_PATH, PROGRESS_PATH
from tests.support.downloads import claim, complete, create, downloading
from tests.support.sse import parse_frames

EVENT_SOURCE = "Accept: text/event-stream"


def read(api: str, target: str, *headers: str) -> tuple[bytes, bytes]:
    """Head and body of an answer of HTTP/1.0, which has no chunks, to its end."""
    address = urlsplit(api)
    with socket.create_connection((address.hostname, address.port), 60) as client:
        lines = [f"GET {target} HTTP/1.0", f"Host: {address.netloc}", *headers]
        client.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        answer = b""
        while part := client.recv(65536):
            answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    return head, body


def old_client(body: bytes) -> list[Any]:
    """The clients of the original: cut at the blank line, keep what begins with `data: `, decode the rest of it."""
    found = []
    for block in body.decode().split("\n\n"):
        if block.startswith("data: "):
            data = block.removeprefix("data: ")
            found.append(data if data == "[DONE]" else json.loads(data))
    return found


@pytest.fixture
def ended(downloads: DownloadContext) -> tuple[str, str]:
    """The id of a download that is complete, and the id of its last event."""
    download_id = create(downloads)
    held = claim(downloads, download_id)
    downloads.claims.finish(held, 2, "complete", complete("/store/x.gguf"), "/store/x.gguf")
    return download_id, f"{held.fence}-2"


COMPLETE = {"stage": "complete", "local_path": "/store/x.gguf", "status": "complete"}


@pytest.mark.parametrize(
    "headers",
    [(), ("Accept: */*", "User-Agent: curl/8.5.0"), ("Accept: application/json",), ("Accept: text/*",), ("Accept:",)],
)
def test_a_client_that_is_no_event_source_gets_bare_data_blocks(
    api: str, ended: tuple[str, str], headers: tuple[str, ...]
) -> None:
    head, body = read(api, f"{PROGRESS_PATH}?id={ended[0]}", *headers)
    assert b"200 OK" in head
    assert body == b'data: {"stage":"complete","local_path":"/store/x.gguf","status":"complete"}\n\ndata: [DONE]\n\n'
    assert old_client(body) == [COMPLETE, "[DONE]"]


@pytest.mark.parametrize(
    ("query", "headers"),
    [
        ("", ("Accept: text/event-stream",)),
        ("", ("accept: TEXT/Event-Stream, */*;q=0.1",)),
        ("", ("Accept: */*", "Accept: text/event-stream")),
        ("", ("Accept: */*", "Last-Event-ID: 1-1")),
        ("", ("Last-Event-ID: ",)),
        ("", ("Last-Event-ID: a stranger's",)),
        ("&last_event_id=1-1", ("Accept: */*",)),
        ("&last_event_id=", ()),
    ],
)
def test_an_event_source_and_who_knows_of_ids_get_ids_and_the_time_to_wait(
    api: str, ended: tuple[str, str], query: str, headers: tuple[str, ...]
) -> None:
    _, body = read(api, f"{PROGRESS_PATH}?id={ended[0]}{query}", *headers)
    assert [(frame.retry_ms, frame.id, frame.is_done) for frame in parse_frames(body)] == [
        (2000, None, False),
        (None, ended[1], False),
        (None, None, True),
    ]


@pytest.mark.parametrize("how", ["header", "query"])
def test_who_has_seen_the_end_is_told_so_with_204(api: str, ended: tuple[str, str], how: str) -> None:
    download_id, last = ended
    query, headers = ("", (f"Last-Event-ID: {last}",)) if how == "header" else (f"&last_event_id={last}", ())
    head, body = read(api, f"{PROGRESS_PATH}?id={download_id}{query}", *headers)
    assert (b"204" in head.partition(b"\r\n")[0], body) == (True, b"")


def test_a_keep_alive_is_a_block_of_its_own_and_old_clients_do_not_see_it(
    api: str, downloads: DownloadContext, server_env: dict[str, str]
) -> None:
    download_id = create(downloads)
    address = urlsplit(api)
    with socket.create_connection((address.hostname, address.port), 60) as client:
        client.sendall(f"GET {PROGRESS_PATH}?id={download_id} HTTP/1.0\r\nHost: {address.netloc}\r\n\r\n".encode())
        body = b""
        while body.count(b"\n\n:\n\n") < 1:
            body += client.recv(65536)
        held = claim(downloads, download_id)
        downloads.claims.publish(held, 2, downloading(40))
        while b'"bytes_downloaded":40' not in body:
            body += client.recv(65536)
        downloads.claims.finish(held, 3, "complete", complete("/store/x.gguf"), "/store/x.gguf")
        while part := client.recv(65536):
            body += part
    body = body.partition(b"\r\n\r\n")[2]
    for block in body.removesuffix(b"\n\n").split(b"\n\n"):
        assert block == b":" or (block.startswith(b"data: ") and b"\n" not in block)
    seen = old_client(body)
    assert seen[0]["status"] == "queued"
    assert seen[-2:] == [COMPLETE, "[DONE]"]
    assert seen.count("[DONE]") == 1


def test_the_stream_for_many_keeps_to_the_same(api: str, ended: tuple[str, str], downloads: DownloadContext) -> None:
    other = create(downloads, "model-b")
    downloads.claims.finish(claim(downloads, other), 2, "complete", complete("/store/y.gguf"), "/store/y.gguf")
    target = f"{MANY_PATH}?id={ended[0]}&id={other}"
    _, bare = read(api, target)
    *states, done = old_client(bare)
    # Each stands there once; which of them is first is not said.
    assert sorted(states, key=lambda state: [ended[0], other].index(state["download_id"])) == [
        {"download_id": ended[0], **COMPLETE},
        {"download_id": other, **COMPLETE, "local_path": "/store/y.gguf"},
    ]
    assert done == "[DONE]"
    assert all(block.startswith(b"data: ") for block in bare.removesuffix(b"\n\n").split(b"\n\n"))
    for frames in (read(api, target, EVENT_SOURCE)[1], read(api, f"{target}&last_event_id=")[1]):
        first, *events, last = parse_frames(frames)
        assert (first.retry_ms, last.is_done) == (2000, True)
        found = sorted((event.event, (event.id or "").partition(":")[0]) for event in events)
        assert found == sorted([("end", ended[0]), ("end", other)])


def test_the_two_forms_of_one_download_stay_apart(api: str, downloads: DownloadContext) -> None:
    """Both are watched at once, so that each frame is made for the one and then for the other."""
    download_id = create(downloads)
    address = urlsplit(api)
    clients = []
    for accept in ("*/*", "text/event-stream"):
        client = socket.create_connection((address.hostname, address.port), 60)
        headers = f"Host: {address.netloc}\r\nAccept: {accept}\r\n\r\n"
        client.sendall(f"GET {PROGRESS_PATH}?id={download_id} HTTP/1.0\r\n{headers}".encode())
        clients.append(client)
    bodies = []
    for client in clients:
        body = b""
        while b'"queued"' not in body:
            body += client.recv(65536)
        bodies.append(body)
    held = claim(downloads, download_id)
    downloads.claims.finish(held, 2, "complete", complete("/store/x.gguf"), "/store/x.gguf")
    for number, client in enumerate(clients):
        while part := client.recv(65536):
            bodies[number] += part
        client.close()
    bare, with_ids = (body.partition(b"\r\n\r\n")[2] for body in bodies)
    assert b"id: " not in bare
    assert b"retry: " not in bare
    assert [frame.data for frame in parse_frames(with_ids) if frame.id][-1:] == [
        frame.data for frame in parse_frames(bare)
    ][-2:-1]
