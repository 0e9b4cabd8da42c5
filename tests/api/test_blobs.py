"""`/v1/blobs`: contents of the store by their digest, as HTTP clients of all kinds ask for them."""

from __future__ import annotations

import base64
import concurrent.futures
import hashlib
import os
import socket

import pytest
import requests

from hive.doors.sendfile import MAX_TRANSFERS
from hive.settings import Settings
from tests.support.processes import Server
from tests.support.store import put, put_url, sha256

SMALL, LARGE = b"{}", os.urandom(3 << 20)


def blob(api: str, content: bytes) -> str:
    return f"{api}/v1/blobs/sha256:{sha256(content)}"


@pytest.fixture
def filled(api: str, settings: Settings) -> str:
    """A server whose store has two files."""
    put(settings, "org/name", {"config.json": SMALL, "model.gguf": LARGE})
    return api


def test_a_content_comes_whole_with_its_digest(filled: str) -> None:
    for content in (SMALL, LARGE):
        answer = requests.get(blob(filled, content), timeout=60)
        assert answer.status_code == 200
        assert answer.content == content
        assert answer.headers["etag"] == f'"{sha256(content)}"'
        digest = base64.b64encode(hashlib.sha256(content).digest()).decode()
        assert answer.headers["repr-digest"] == f"sha-256=:{digest}:"
        assert answer.headers["accept-ranges"] == "bytes"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-request-id"]


def test_head_says_the_same_without_the_bytes_and_knows_no_ranges(filled: str) -> None:
    for headers in ({}, {"range": "bytes=10-19"}, {"range": f"bytes={len(LARGE)}-"}):
        answer = requests.head(blob(filled, LARGE), headers=headers, timeout=60)
        assert (answer.status_code, answer.headers["content-length"], answer.content) == (200, str(len(LARGE)), b"")
        assert (answer.headers["accept-ranges"], "content-range" in answer.headers) == ("bytes", False)


@pytest.mark.parametrize("start", [0, 1, 70_000, len(LARGE) - 5, len(LARGE) - 1])
def test_a_download_that_broke_off_goes_on(filled: str, start: int) -> None:
    headers = {"range": f"bytes={start}-", "if-range": f'"{sha256(LARGE)}"'}
    answer = requests.get(blob(filled, LARGE), headers=headers, timeout=60)
    assert answer.status_code == 206
    assert answer.content == LARGE[start:]
    assert answer.headers["content-range"] == f"bytes {start}-{len(LARGE) - 1}/{len(LARGE)}"


def test_conditions_and_ranges_that_cannot_be_are_answered_without_bytes(filled: str) -> None:
    url, etag = blob(filled, LARGE), f'"{sha256(LARGE)}"'
    with requests.Session() as session:  # one connection: each answer ends where it says
        assert session.get(url, headers={"if-none-match": etag}, timeout=60).status_code == 304
        behind = session.get(url, headers={"range": f"bytes={len(LARGE)}-"}, timeout=60)
        assert (behind.status_code, behind.headers["content-range"]) == (416, f"bytes */{len(LARGE)}")
        assert session.get(url, headers={"if-match": '"other"'}, timeout=60).status_code == 412
        several = session.get(url, headers={"range": "bytes=0-1,3-4"}, timeout=60)
        assert (several.status_code, several.content) == (200, LARGE)


@pytest.mark.parametrize(
    "name",
    [
        "sha256:" + "0" * 64,
        "sha256:" + "A" * 64,
        "sha256:..%2F..%2Fetc%2Fpasswd",
        "%2e%2e",
        "sha256:" + "0" * 63 + "%00",
        "sha256-" + "0" * 64,
        "sha512:" + "0" * 64,
        "0" * 64,
        "sha256:%ff" + "0" * 63,
        "sha256:" + "0" * 4000,
    ],
)
def test_what_is_no_digest_of_the_store_is_not_found(filled: str, name: str) -> None:
    answer = requests.get(f"{filled}/v1/blobs/{name}", timeout=60)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "NOT_FOUND"


def test_a_link_out_of_the_store_is_no_content(filled: str, settings: Settings) -> None:
    name = "e" * 64
    (settings.hub_dir / "models--org--name" / "blobs" / name).symlink_to("/etc/passwd")
    assert requests.get(f"{filled}/v1/blobs/sha256:{name}", timeout=60).status_code == 404


def test_a_file_from_a_url_is_there_by_its_digest(filled: str, settings: Settings) -> None:
    put_url(settings, "https://example.org/m.gguf", b"from afar")
    assert requests.get(blob(filled, b"from afar"), timeout=60).content == b"from afar"


def test_two_requests_at_once_on_one_connection_are_both_answered(filled: str, server: Server) -> None:
    path = f"/v1/blobs/sha256:{sha256(LARGE)}"
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    last = request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), 30) as client:
        client.sendall(request + last)
        received = bytearray()
        while piece := client.recv(1 << 20):
            received += piece
    assert received.count(b"HTTP/1.1 200 OK\r\n") == 2
    assert received.count(LARGE) == 2


def test_sixty_four_clients_at_once_get_all_of_it_and_the_server_has_room_for_more(filled: str) -> None:
    with concurrent.futures.ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(lambda _: requests.get(blob(filled, LARGE), timeout=60).content == LARGE, range(64)))
    assert all(answers)
    assert MAX_TRANSFERS > 64
