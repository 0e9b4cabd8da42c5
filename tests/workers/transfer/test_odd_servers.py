"""Servers and proxies that keep to the letter of HTTP in their own way: what can be had of them is had, and what cannot
is said in their words.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from hive.errors import DownloadError, UnsafeUrl
from hive.net.egress import next_hop
from hive.net.urls import parse_url
from tests.hub import HubServer, faults
from tests.hub.content import Bytes, Content
from tests.hub.messages import Body, Reply, Request, whole
from tests.support.transfer import big, get, holds, source

Answer = Callable[[Request, Content], Reply | None]

BOTH = pytest.mark.parametrize("pinned", [True, False])


class Answered(faults.Fault):
    """Answers as a function of the test says; None leaves it to the server."""

    def __init__(self, answer: Answer, content: Content) -> None:
        self._answer = answer
        self._content = content

    def before(self, request: Request) -> Reply | None:
        return self._answer(request, self._content)


def bring(hub: HubServer, partial: Path, answer: Answer, *, pinned: bool) -> int:
    """Fetch a file from a server that answers so; how many requests it took."""
    content = big()
    url = hub.plain("f", content)
    hub.faults.add(Answered(answer, content), "/f")
    get(source(url, content, pinned=pinned), partial)
    assert holds(partial, content)
    return len(hub.hits("/f"))


def part(request: Request, content: Content) -> tuple[int, int] | None:
    """The bytes that a request asks for, if it asks for a range."""
    asked = request.headers.get("range")
    if asked is None:
        return None
    first, last = asked.removeprefix("bytes=").split("-")
    return int(first), min(int(last) + 1, content.size)


def of_range(content: Content, start: int, end: int) -> Body:
    return Body(content, start, end, content.size, end - start)


def no_ranges(status: int) -> Answer:
    return lambda request, content: Reply(status) if part(request, content) else None


@BOTH
@pytest.mark.parametrize("status", [416, 501])
def test_a_server_that_cannot_do_ranges_gives_the_whole(
    hub: HubServer, tmp_path: Path, status: int, pinned: bool
) -> None:
    assert bring(hub, tmp_path / "f", no_ranges(status), pinned=pinned) <= 4


@BOTH
@pytest.mark.parametrize("block", [65_536, -1])
def test_a_server_that_gives_other_ranges_than_asked_for_gives_the_whole(
    hub: HubServer, tmp_path: Path, block: int, pinned: bool
) -> None:
    """It counts in whole blocks, or from 1."""

    def answer(request: Request, content: Content) -> Reply | None:
        asked = part(request, content)
        if asked is None:
            return None
        start = asked[0] // block * block if block > 0 else min(asked[0] + 1, asked[1] - 1)
        said = f"bytes {start}-{asked[1] - 1}/{content.size}"
        return Reply(206, [("Content-Range", said), ("ETag", '"one"')], of_range(content, start, asked[1]))

    bring(hub, tmp_path / "f", answer, pinned=pinned)


@BOTH
def test_a_416_that_calls_the_file_empty_is_not_believed(hub: HubServer, tmp_path: Path, pinned: bool) -> None:
    def answer(request: Request, content: Content) -> Reply | None:
        return Reply(416, [("Content-Range", "bytes */0")]) if part(request, content) else None

    assert bring(hub, tmp_path / "f", answer, pinned=pinned) <= 4


@BOTH
def test_a_range_that_comes_as_200_is_not_taken_for_the_file(hub: HubServer, tmp_path: Path, pinned: bool) -> None:
    """A proxy between made 200 of 206, and left the rest as it was."""

    def answer(request: Request, content: Content) -> Reply | None:
        asked = part(request, content)
        if asked is None:
            return None
        said = f"bytes {asked[0]}-{asked[1] - 1}/{content.size}"
        return Reply(200, [("Content-Range", said), ("ETag", '"one"')], of_range(content, *asked))

    bring(hub, tmp_path / "f", answer, pinned=pinned)


@BOTH
def test_a_proxys_203_is_the_file(hub: HubServer, tmp_path: Path, pinned: bool) -> None:
    bring(hub, tmp_path / "f", lambda request, content: Reply(203, [], whole(content)), pinned=pinned)


@BOTH
@pytest.mark.parametrize("word", ["aws-chunked", "UTF-8", "binary", "identity, aws-chunked", ""])
def test_a_content_encoding_that_packs_nothing_is_none(hub: HubServer, tmp_path: Path, word: str, pinned: bool) -> None:
    bring(
        hub,
        tmp_path / "f",
        lambda request, content: Reply(200, [("Content-Encoding", word)], whole(content)),
        pinned=pinned,
    )


def test_a_packing_that_hive_does_not_know_is_said_at_once(hub: HubServer, tmp_path: Path) -> None:
    reply = Reply(200, [("Content-Encoding", "br")], whole(Bytes(b"packed")))
    with pytest.raises(DownloadError, match=r"compressed \(br\)"):
        bring(hub, tmp_path / "f", lambda request, content: reply, pinned=True)
    assert len(hub.hits("/f")) == 1


def test_servers_of_one_name_with_etags_of_their_own_give_one_stream(hub: HubServer, tmp_path: Path) -> None:
    count = itertools.count()

    def answer(request: Request, content: Content) -> Reply:
        asked, etag = part(request, content), ("ETag", f'"{next(count)}"')
        if asked is None or "if-range" in request.headers:
            return Reply(200, [etag], whole(content))
        said = f"bytes {asked[0]}-{asked[1] - 1}/{content.size}"
        return Reply(206, [etag, ("Content-Range", said)], of_range(content, *asked))

    bring(hub, tmp_path / "f", answer, pinned=False)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_without_an_address_is_said_at_once(hub: HubServer, tmp_path: Path, status: int) -> None:
    with pytest.raises(DownloadError, match=rf"redirects \({status}\) without saying where to"):
        bring(hub, tmp_path / "f", lambda request, content: Reply(status), pinned=False)
    assert len(hub.hits("/f")) == 1


def test_bytes_in_an_errors_body_are_not_shown(hub: HubServer, tmp_path: Path) -> None:
    with pytest.raises(DownloadError) as caught:
        bring(hub, tmp_path / "f", lambda request, content: Reply(409, [], whole(content)), pinned=True)
    assert caught.value.message == "The server answers 409 Conflict."


@pytest.mark.parametrize(
    ("location", "address"),
    [
        ("/mod\xe8le", "/mod%E8le"),
        ("/\xc3\xa8", "/%C3%A8"),
        ("?sig=1", "/a/b?sig=1"),
        ("//other.example/x", "//other.example/x"),
        ("HTTP://OTHER.example/x", "//other.example/x"),
        ("/a%zz[1]|{x}", "/a%zz[1]|{x}"),
        ("/f.gguf#fragment", "/f.gguf"),
    ],
)
def test_a_location_is_followed_byte_for_byte(location: str, address: str) -> None:
    start = "http://start.example"
    expected = f"http:{address}" if address.startswith("//") else start + address
    assert str(next_hop(parse_url(f"{start}/a/b?c"), location)) == expected


@pytest.mark.parametrize(
    "location", ["ftp://x/y", "data:,x", "http://u:c4n4ry@host/", "http://[::1", "/a\tb", "https://"]
)
def test_a_redirect_that_leads_nowhere_is_blamed_on_the_redirect(location: str) -> None:
    with pytest.raises(UnsafeUrl, match="A redirect leads") as caught:
        next_hop(parse_url("http://start.example/a"), location)
    assert "c4n4ry" not in caught.value.message
