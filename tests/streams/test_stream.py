"""A stream over a real connection, both ways its bytes can go: handed over by the server, and through `send`."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from hive.downloads.context import DownloadContext
from hive.downloads.record import Claim
from hive.streams import writer as writer_module
from hive.streams.writer import SocketWriter, Writer
from hive.wire.events import MAX_MESSAGE_CHARS
from tests.support.asgi_server import (
    SMALL_BUFFER,
    Serving,
    body_of,
    read_to_end,
    read_until,
    running,
)
from tests.support.downloads import claim, complete, create, downloading
from tests.support.sse import parse_frames
from tests.support.waiting import DEADLINE_S, wait_for_async

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """The event loop that hive runs on."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(params=["handed over", "through send"])
async def serving(redis_url: str, request: pytest.FixtureRequest) -> AsyncIterator[Serving]:
    async with running(redis_url, hands_over=request.param == "handed over") as found:
        yield found


@pytest.fixture
async def handed_over(redis_url: str) -> AsyncIterator[Serving]:
    """For what only a connection of its own has to do."""
    async with running(redis_url, hands_over=True) as found:
        yield found


async def test_a_client_sees_the_state_the_progress_and_the_end_and_the_connection_closes(
    serving: Serving, downloads: DownloadContext
) -> None:
    download_id = create(downloads)
    client = serving.connect(download_id, headers="Connection: close\r\n")
    await read_until(client, b'"status":"queued"')
    held = claim(downloads, download_id)
    await read_until(client, b'"status":"resolving"')
    downloads.claims.publish(held, 2, downloading(40))
    await read_until(client, b'"bytes_downloaded":40')
    downloads.claims.finish(held, 3, "complete", complete("/store/x.gguf"), "/store/x.gguf")
    rest = await read_to_end(client)
    assert rest.count(b"data: [DONE]\n\n") == 1
    assert rest.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    await wait_for_async(lambda: not serving.endpoint.open_streams)
    assert serving.fanout.subscribers == set()


async def test_the_whole_of_an_ended_stream_is_the_same_both_ways(serving: Serving, downloads: DownloadContext) -> None:
    download_id = create(downloads)
    held = claim(downloads, download_id)
    downloads.claims.finish(held, 2, "complete", complete("/x"), "/x")
    answer = await read_to_end(serving.connect(download_id, headers="Connection: close\r\n"))
    assert body_of(answer) == (
        b"retry: 2000\n\n"
        b'id: %d-2\ndata: {"stage":"complete","local_path":"/x","status":"complete"}\n\n'
        b"data: [DONE]\n\n" % held.fence
    )
    head = answer.partition(b"\r\n\r\n")[0].lower().split(b"\r\n")
    assert head[0] == b"http/1.1 200 ok"
    assert {
        b"content-type: text/event-stream",
        b"cache-control: no-store, no-transform",
        b"x-accel-buffering: no",
        b"connection: close",
        b"transfer-encoding: chunked",
    } <= set(head)


async def test_a_slow_client_skips_frames_and_gets_the_end(serving: Serving, downloads: DownloadContext) -> None:
    download_id = create(downloads)
    held = claim(downloads, download_id)
    client = serving.connect(download_id, receive_buffer=SMALL_BUFFER, headers="Connection: close\r\n")
    await serving.watched()
    (stream,) = serving.endpoint._open
    sent = 0
    while sent < 5000 and not (stream._writer.paused and sent > 200):
        for _ in range(50):
            sent += 1
            downloads.claims.publish(held, sent + 1, downloading(sent, message="m" * MAX_MESSAGE_CHARS))
        await asyncio.sleep(0.01)
    assert stream._writer.paused, "the client's buffer never filled"
    downloads.claims.finish(held, sent + 2, "complete", complete(), "/x")
    await wait_for_async(lambda: stream.topic is not None and stream.topic.terminal)
    body = body_of(await read_to_end(client))
    ids = [frame.version for frame in parse_frames(body) if frame.id is not None]
    assert len(ids) < sent / 2, "it was to skip what was overtaken"
    assert ids == sorted(set(ids))
    assert ids[-1] == (held.fence, sent + 2)
    assert body.count(b"data: [DONE]\n\n") == 1
    assert body.endswith(b"data: [DONE]\n\n")


async def publish_until_given_up(
    serving: Serving, downloads: DownloadContext, held: Claim, look: Callable[[], None] = lambda: None
) -> None:
    """Long events, one after the other, and a look after each, until the server has no stream open any more."""
    seq = 0
    async with asyncio.timeout(DEADLINE_S):
        while serving.endpoint.open_streams:
            seq += 1
            downloads.claims.publish(held, seq + 1, downloading(seq, message="m" * MAX_MESSAGE_CHARS))
            look()
            await asyncio.sleep(0.001)


async def test_a_client_that_never_reads_holds_little_and_is_given_up(
    handed_over: Serving, downloads: DownloadContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "STALL_TIMEOUT_S", 0.3)
    download_id = create(downloads)
    held = claim(downloads, download_id)
    client = handed_over.connect(download_id, receive_buffer=SMALL_BUFFER)
    await handed_over.watched()
    (stream,) = handed_over.endpoint._open
    writer = stream._writer
    assert isinstance(writer, SocketWriter)
    sizes: list[int] = []
    await publish_until_given_up(
        handed_over, downloads, held, lambda: sizes.append(writer._transport.get_write_buffer_size())
    )
    most = max(sizes)
    assert 0 < most < 2 * MAX_MESSAGE_CHARS, "no more than the frame that the kernel did not take"
    assert handed_over.fanout.subscribers == set()
    assert not handed_over.state.connections
    with pytest.raises(ConnectionResetError):
        await read_to_end(client)


async def test_one_that_never_reads_is_given_up_however_its_stream_is_written(
    serving: Serving, downloads: DownloadContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "STALL_TIMEOUT_S", 0.3)
    download_id = create(downloads)
    held = claim(downloads, download_id)
    client = serving.connect(download_id, receive_buffer=SMALL_BUFFER)
    await serving.watched()
    await publish_until_given_up(serving, downloads, held)
    await wait_for_async(lambda: not serving.state.connections, "the connection to be forgotten")
    with pytest.raises(ConnectionResetError):
        await read_to_end(client)


async def test_a_client_that_takes_a_frame_slowly_is_kept(
    handed_over: Serving, downloads: DownloadContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes a little of what waits, each time that it is looked whether it does."""
    # The kernel offers so small a window only now and then.
    monkeypatch.setattr(writer_module, "STALL_TIMEOUT_S", 2.0)
    download_id = create(downloads)
    held = claim(downloads, download_id)
    client = handed_over.connect(download_id, receive_buffer=SMALL_BUFFER)
    await handed_over.watched()
    (stream,) = handed_over.endpoint._open
    writer = stream._writer
    assert isinstance(writer, SocketWriter)
    seq = 0
    while not writer.paused:
        seq += 1
        downloads.claims.publish(held, seq + 1, downloading(seq, message="m" * MAX_MESSAGE_CHARS))
        await asyncio.sleep(0.01)
    loop, looks = asyncio.get_running_loop(), 0
    while writer.paused and looks < 3:
        assert writer._stall is not None
        handle, taken = writer._stall._handle, 0
        while taken < 2 * SMALL_BUFFER:
            taken += len(await loop.sock_recv(client, SMALL_BUFFER))
        while writer._stall is not None and writer._stall._handle is handle and handed_over.endpoint.open_streams:
            await asyncio.sleep(0.01)
        looks += 1
        assert handed_over.endpoint.stalled_total == 0
    assert looks > 1, "it was not slow"
    assert handed_over.endpoint.open_streams == 1


@pytest.mark.parametrize("abruptly", [False, True])
async def test_a_client_that_goes_is_forgotten(serving: Serving, downloads: DownloadContext, abruptly: bool) -> None:
    client = serving.connect(create(downloads))
    await serving.watched()
    if abruptly:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, writer_module._LINGER_NONE)
    client.close()
    await wait_for_async(lambda: not serving.endpoint.open_streams)
    await wait_for_async(lambda: not serving.state.connections)
    assert serving.fanout.subscribers == set()


async def test_those_who_come_while_the_state_is_read_share_that_read(
    handed_over: Serving, downloads: DownloadContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[list[str]] = []
    go_on = threading.Event()
    read_states = handed_over.fanout._tracker.read_states

    def slow_read(ids: list[str]) -> object:
        reads.append(ids)
        go_on.wait(DEADLINE_S)
        return read_states(ids)

    monkeypatch.setattr(handed_over.fanout._tracker, "read_states", slow_read)
    download_id = create(downloads)
    handed_over.connect(download_id)
    await wait_for_async(lambda: reads)
    for _ in range(20):
        handed_over.connect(download_id)
    await wait_for_async(lambda: handed_over.endpoint.open_streams == 21)
    go_on.set()
    await handed_over.watched(21)
    assert reads == [[download_id]]


async def test_an_unknown_id_leaves_nothing_behind(serving: Serving) -> None:
    answer = await read_to_end(serving.connect(str(uuid.uuid4()), headers="Connection: close\r\n"))
    assert answer.startswith(b"HTTP/1.1 404")
    assert serving.endpoint.open_streams == 0
    assert serving.fanout.subscribers == set()


async def test_a_drain_ends_streams_without_done_and_those_that_are_about_to_begin(
    serving: Serving, downloads: DownloadContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One client is in the middle, one waits for the state to be read, one comes too late."""
    one, two = create(downloads), create(downloads, "model-b")
    middle = serving.connect(one)
    await serving.watched()
    go_on = asyncio.Event()
    join = serving.fanout.join

    async def slow_join(*arguments: object) -> object:
        await go_on.wait()
        return await join(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(serving.fanout, "join", slow_join)
    joining = serving.connect(two, headers="Connection: close\r\n")
    await wait_for_async(lambda: serving.endpoint.open_streams == 2)
    await serving.endpoint.drain(0)
    go_on.set()
    late = serving.connect(one)
    answers = [await read_until(client, b"\r\n0\r\n\r\n") for client in (middle, joining, late)]
    for answer in answers:
        body = body_of(answer)
        assert b"[DONE]" not in body
        assert body.rstrip().rpartition(b"\n")[2].startswith(b"retry: ")
    await wait_for_async(lambda: not serving.endpoint.open_streams)


async def test_a_drain_reaches_a_client_that_is_behind_when_it_reads_again(
    serving: Serving, downloads: DownloadContext
) -> None:
    download_id = create(downloads)
    held = claim(downloads, download_id)
    client = serving.connect(download_id, receive_buffer=SMALL_BUFFER)
    await serving.watched()
    (stream,) = serving.endpoint._open
    seq = 1
    async with asyncio.timeout(DEADLINE_S):
        while not (stream._writer.paused and seq > 200):
            seq += 1
            downloads.claims.publish(held, seq, downloading(seq, message="m" * MAX_MESSAGE_CHARS))
            await asyncio.sleep(0)
    await serving.endpoint.drain(0)
    body = body_of(await read_until(client, b"\r\n0\r\n\r\n"))
    assert body.rstrip().rpartition(b"\n")[2].startswith(b"retry: ")


async def test_an_old_client_gets_a_body_without_chunks(handed_over: Serving, downloads: DownloadContext) -> None:
    download_id = create(downloads)
    downloads.claims.finish(claim(downloads, download_id), 2, "complete", complete("/x"), "/x")
    answer = await read_to_end(handed_over.connect(download_id, version="1.0"))
    assert b"transfer-encoding" not in answer
    assert body_of(answer).startswith(b"retry: 2000\n\nid: ")
    assert answer.endswith(b"data: [DONE]\n\n")


async def test_a_request_behind_the_stream_is_answered_after_it(serving: Serving, downloads: DownloadContext) -> None:
    """A client that sends two requests at once keeps its connection: its stream goes through `send`."""
    download_id = create(downloads)
    client = serving.connect(download_id, headers=f"\r\nGET /{uuid.uuid4()} HTTP/1.1\r\nHost: x\r\n")
    await read_until(client, b'"status":"queued"')
    downloads.claims.finish(claim(downloads, download_id), 2, "complete", complete("/x"), "/x")
    rest = await read_until(client, b"HTTP/1.1 404")
    assert rest.index(b"[DONE]") < rest.index(b"404")


async def test_a_client_that_has_not_taken_the_answer_before_gets_no_store_of_frames(
    handed_over: Serving, downloads: DownloadContext
) -> None:
    download_id = create(downloads)
    held = claim(downloads, download_id)
    client = handed_over.connect("big", receive_buffer=SMALL_BUFFER)
    (connection,) = await wait_for_async(lambda: handed_over.state.connections)
    await wait_for_async(lambda: connection.transport.get_write_buffer_size())
    client.send(f"GET /{download_id} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    await handed_over.watched()
    before = connection.transport.get_write_buffer_size()
    for seq in range(2, 200):
        downloads.claims.publish(held, seq, downloading(seq, message="m" * MAX_MESSAGE_CHARS))
        await asyncio.sleep(0)
    assert connection.transport.get_write_buffer_size() <= before + 2 * MAX_MESSAGE_CHARS
    downloads.claims.finish(held, 200, "complete", complete(), "/x")
    answer = await read_to_end(client)
    assert answer.count(b"data: [DONE]\n\n") == 1


async def test_a_client_that_talks_on_without_end_is_cut_off(handed_over: Serving, downloads: DownloadContext) -> None:
    client = handed_over.connect(create(downloads))
    await handed_over.watched()
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(DEADLINE_S):
        with contextlib.suppress(ConnectionError):
            while handed_over.endpoint.open_streams:
                await loop.sock_sendall(client, b"x" * 4096)
    assert handed_over.endpoint.open_streams == 0


async def test_an_error_with_one_client_keeps_nothing_from_the_others(
    serving: Serving, downloads: DownloadContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    download_id = create(downloads)
    clients = [serving.connect(download_id, headers="Connection: close\r\n") for _ in range(5)]
    await serving.watched(5)
    broken = next(iter(serving.endpoint._open))

    def fail(data: bytes) -> None:
        raise RuntimeError("of the test")

    broken._write = fail
    broken._writer = _Broken(broken._writer)
    downloads.claims.finish(claim(downloads, download_id), 2, "complete", complete(), "/x")
    reading: list[Awaitable[bytes]] = [read_to_end(client) for client in clients]
    # The client of the broken one is cut off, so that it comes back, and does not wait for an end that nobody tells it.
    await wait_for_async(lambda: serving.endpoint.open_streams == 0)
    bodies = await asyncio.gather(*reading, return_exceptions=True)
    assert sum(isinstance(body, bytes) and b"[DONE]" in body for body in bodies) == 4


class _Broken:
    """A writer that fails."""

    chunked, paused, head = False, False, b""

    def __init__(self, writer: Writer) -> None:
        self.abort = writer.abort

    def write(self, data: bytes) -> None:
        raise RuntimeError("of the test")

    def end(self, data: bytes) -> None:
        raise RuntimeError("of the test")
