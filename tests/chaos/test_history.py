"""The checker and the cable: each of what must not be is noticed, or the soak's silence would mean nothing."""

from __future__ import annotations

import asyncio
import itertools
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from hive.downloads.context import DownloadContext
from hive.processes.embedded_redis import EmbeddedRedis
from hive.redis.client import connect
from hive.redis.errors import is_redis_error
from hive.wire import keys
from hive.wire.events import Complete
from tests.chaos import watchman as watchman_module
from tests.chaos.history import Watch, judge_files
from tests.chaos.proxy import LoopThread, Proxy
from tests.chaos.watchman import Watchman
from tests.hub.content import Bytes
from tests.support.downloads import claim, create
from tests.support.waiting import wait_for

PROGRESS = 'id: 5-{seq}\ndata: {{"stage":"downloading","bytes_downloaded":{done},"bytes_total":9,"speed_mbps":0.0}}\n\n'
COMPLETE = 'id: {id}\ndata: {{"stage":"complete","local_path":"{path}"}}\n\n'
END = COMPLETE.format(id="5-9", path="/x")
DONE = "data: [DONE]\n\n"


@pytest.fixture
def thread() -> Iterator[LoopThread]:
    made = LoopThread()
    yield made
    made.stop()


class Replica:
    """Answers its n-th client with the n-th of these bodies; an empty one is a 404."""

    def __init__(self, thread: LoopThread, bodies: list[str]) -> None:
        self._thread = thread
        self._bodies = itertools.chain(bodies, itertools.repeat(bodies[-1]))
        self._server = thread.call(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def close(self) -> None:
        self._thread.call(self._close())

    async def _close(self) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = next(self._bodies)
        status = "200 OK" if body else "404 Not Found"
        frames = "".join(f"{len(frame) + 2:x}\r\n{frame}\n\n\r\n" for frame in body.split("\n\n") if frame)
        writer.write(f"HTTP/1.1 {status}\r\ntransfer-encoding: chunked\r\n\r\n{frames}0\r\n\r\n".encode())
        await writer.drain()
        writer.close()


def judged(thread: LoopThread, *bodies: str) -> str:
    """What is said of clients of which each gets one body after the other, on its own replica."""
    replicas = [Replica(thread, body.split("|")) for body in bodies]
    watch = Watch(thread, lambda: [replica.url for replica in replicas], str(uuid.uuid4()), viewers=len(replicas))
    wait_for(lambda: watch.over)
    for replica in replicas:
        replica.close()
    return " ".join(watch.judge())


def progress(seq: int, done: int = 1) -> str:
    return PROGRESS.format(seq=seq, done=done)


def test_a_stream_as_it_should_be_is_not_objected_to(thread: LoopThread) -> None:
    assert judged(thread, progress(1) + progress(2) + END + DONE, END + DONE) == ""


@pytest.mark.parametrize(
    ("bodies", "objection"),
    [
        ([END + DONE, COMPLETE.format(id="5-9", path="/y") + DONE], "different ends"),
        ([END + DONE, COMPLETE.format(id="6-1", path="/x") + DONE], "different ends"),
        ([END + DONE + END], "after the end"),
        ([END + DONE + DONE], "a second [DONE]"),
        ([END], "0 [DONE]"),
        ([progress(3) + progress(2) + END + DONE], "went back"),
        ([progress(3) + "|" + progress(2) + END + DONE], "went back"),
        ([progress(1, 5) + progress(2, 4) + END + DONE], "progress went back"),
        ([""], "answered 404"),
        (['id: 5-1\ndata: {"stage":"error","message":"m","code":"DOWNLOAD_NOT_FOUND"}\n\n' + DONE], "unknown"),
    ],
)
def test_what_must_not_be_is_noticed(thread: LoopThread, bodies: list[str], objection: str) -> None:
    assert objection in judged(thread, *bodies)


def test_wrong_bytes_behind_a_complete_are_noticed(tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    end = Complete(local_path=str(file))
    contents = {"m.gguf": Bytes(b"right")}
    assert len(judge_files(end, contents)) == 1
    file.write_bytes(b"wrong")
    assert len(judge_files(end, contents)) == 1
    file.write_bytes(b"right")
    assert judge_files(end, contents) == []


@pytest.mark.parametrize("loses", ["lease", "place"])
def test_a_download_that_nobody_has_is_noticed(
    redis_server: EmbeddedRedis, redis_url: str, downloads: DownloadContext, monkeypatch: pytest.MonkeyPatch, loses: str
) -> None:
    monkeypatch.setattr(watchman_module, "LIMIT_S", 0.3)
    monkeypatch.setattr(watchman_module, "LOOK_S", 0.05)
    held, waiting = create(downloads, "held"), create(downloads, "waiting")
    claim(downloads, held)
    watchman = Watchman(redis_url)
    try:
        wait_for(lambda: watchman.looks > 20)
        assert watchman.wrong == []
        with connect(redis_url) as client:
            lost = held if loses == "lease" else waiting
            client.zrem(keys.LEASES if loses == "lease" else keys.PENDING, lost)
        wait_for(lambda: watchman.wrong)
        assert len(watchman.wrong) == 1
        assert watchman.wrong[0].startswith(lost)
    finally:
        watchman.stop()


@pytest.fixture
def cable(redis_server: EmbeddedRedis, thread: LoopThread) -> Iterator[Proxy]:
    made = Proxy(thread, redis_server.url.removeprefix("unix://"))
    yield made
    made.close()


def test_a_cable_forgets_a_reply_and_delivers_late_what_was_sent_into_silence(cable: Proxy) -> None:
    with connect(cable.url, reply_timeout_s=0.3, retries=0) as client:
        client.set("cable", 0)
        cable.drop_reply_to(b"INCR")
        with pytest.raises(Exception, match=r"(?i)connection|reset|closed") as raised:
            client.incr("cable")
        assert is_redis_error(raised.value)
        assert (client.get("cable"), cable.dropped) == (b"1", 1)
        cable.silence()
        with pytest.raises(Exception, match=r"(?i)timeout|timed out"):
            client.incr("cable")
        cable.silence(False)
        wait_for(lambda: client.get("cable") == b"2", what="what was sent into the silence")


def test_a_cable_is_slow_cut_and_plugged_in_elsewhere(cable: Proxy) -> None:
    def connected() -> socket.socket:
        return socket.create_connection(("127.0.0.1", cable.port), 5)

    with connected() as plain:
        cable.delay_s = 0.1
        began_s = time.monotonic()
        plain.sendall(b"PING\r\n")
        assert plain.recv(100) == b"+PONG\r\n"
        assert time.monotonic() - began_s >= 0.2
        cable.reset()
        with pytest.raises(ConnectionResetError):
            plain.recv(100)
    cable.target = "/nonexistent"
    with pytest.raises(ConnectionResetError), connected() as plain:  # at the latest when it is read from
        plain.recv(100)
