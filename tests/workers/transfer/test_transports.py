"""The seam: another way to the same bytes comes first, and HTTP takes over where it fails."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from tests.hub import HubServer
from tests.hub.content import Content, read_all
from tests.support.content import KIB, MIB
from tests.support.transfer import QUICK, big, get, holds, source, transfer_threads
from workers.transfer import Control
from workers.transfer.transport import ExpectedContent, Transient

CHUNK_BYTES = 16 * KIB


class LocalStream:
    """Bytes from memory; may fall silent."""

    def __init__(self, data: bytes, start: int, total: int, silent: bool) -> None:
        self.start = start
        self.whole = False
        self.total: int | None = total
        self.validator = ""
        self.etag: str | None = None
        self._data = data
        self._silent = silent
        self._aborted = threading.Event()

    def chunks(self) -> Iterator[memoryview]:
        for at in range(0, len(self._data), CHUNK_BYTES):
            if self._silent and at:
                self._aborted.wait()
            if self._aborted.is_set():
                raise Transient("aborted")
            yield memoryview(self._data)[at : at + CHUNK_BYTES]

    def abort(self) -> None:
        self._aborted.set()

    def close(self) -> None:
        self.abort()


class LocalTransport:
    """A transport that counts what it is asked for."""

    name = "local"

    def __init__(self, content: Content, *, silent: bool = False, wrong: bool = False) -> None:
        self._data = bytearray(read_all(content))
        self._silent = silent
        self.opened = 0
        if wrong:
            self._data[len(self._data) // 2] ^= 1

    def open(self, start: int, end: int | None, known: ExpectedContent, control: Control) -> LocalStream:
        self.opened += 1
        return LocalStream(bytes(self._data[start:end]), start, len(self._data), self._silent)

    def refresh(self) -> None:
        """Nothing is remembered."""


def test_the_preferred_transport_brings_the_file_alone(hub: HubServer, tmp_path: Path) -> None:
    content = big()
    local = LocalTransport(content)
    get(source(hub.plain("f", content), content), tmp_path / "f", transports=[local])
    assert holds(tmp_path / "f", content)
    assert local.opened > 1
    assert not hub.hits()


def test_a_silent_transport_fails_over_to_http_without_losing_a_byte(hub: HubServer, tmp_path: Path) -> None:
    content = big()
    local = LocalTransport(content, silent=True)
    limits = replace(QUICK, stall_all_s=0.4, stall_s=30.0)
    fetched = get(source(hub.plain("f", content), content), tmp_path / "f", limits, transports=[local])
    assert holds(tmp_path / "f", content)
    assert fetched.bytes_refetched == 0
    assert hub.bytes_sent("/f") < content.size + MIB
    assert transfer_threads() == []


def test_wrong_bytes_of_one_transport_are_fetched_again_over_the_other(hub: HubServer, tmp_path: Path) -> None:
    content = big()
    local = LocalTransport(content, wrong=True)
    fetched = get(source(hub.plain("f", content), content), tmp_path / "f", transports=[local])
    assert fetched.verified
    assert fetched.bytes_refetched == content.size
    assert [hit.range for hit in hub.hits("/f")] == [None]
