"""The deadline of a request holds inside TLS that is inside the TLS of a proxy."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpcore2
import pytest

from hive.net.httpcore import DeadlineStream
from tests.support.tls import Authority

#: Seconds from one byte to the next, and a record that takes minutes that way.
DRIP_S = 0.05
SLOW_RECORD = b"\x16\x03\x03\x40\x00" + bytes(16_384)


@contextlib.contextmanager
def dripping_proxy(authority: Authority, *, answers_handshake: bool) -> Iterator[int]:
    """The port of a proxy that speaks TLS, and leads to a server which sends a record of TLS byte by byte: instead of a
    handshake, or behind it.
    """
    listener, stop = socket.create_server(("127.0.0.1", 0)), threading.Event()

    def serve() -> None:
        client, _ = listener.accept()
        with client, contextlib.suppress(OSError), authority.context().wrap_socket(client, server_side=True) as outer:
            record = SLOW_RECORD
            if answers_handshake:
                incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
                inner = authority.context().wrap_bio(incoming, outgoing, server_side=True)
                while not done(inner):
                    outer.sendall(outgoing.read())
                    incoming.write(outer.recv(16_384))
                outer.sendall(outgoing.read())
                inner.write(bytes(16_000))
                record = outgoing.read()
            for place in range(len(record)):
                if stop.wait(DRIP_S):
                    return
                outer.sendall(record[place : place + 1])

    def done(inner: ssl.SSLObject) -> bool:
        try:
            inner.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        stop.set()
        listener.close()
        thread.join(60)


@pytest.mark.parametrize("answers_handshake", [False, True])
def test_a_server_behind_a_proxy_with_tls_does_not_outlast_the_deadline_byte_by_byte(
    tmp_path: Path, answers_handshake: bool
) -> None:
    authority = Authority(tmp_path)
    context = ssl.create_default_context(cafile=str(authority.file))
    # Long for a handshake, short against the minutes of the record.
    until_s = time.monotonic() + (10.0 if answers_handshake else 2.0)
    with dripping_proxy(authority, answers_handshake=answers_handshake) as port:
        plain = DeadlineStream(socket.create_connection(("127.0.0.1", port), 60), lambda: until_s, proxy_first=True)
        outer = plain.start_tls(context, "localhost", 60)
        if answers_handshake:
            inner = outer.start_tls(context, "localhost", 60)
            with pytest.raises(httpcore2.ReadTimeout):
                inner.read(65_536, 60)
        else:
            with pytest.raises(httpcore2.ConnectTimeout):
                outer.start_tls(context, "localhost", 60)
        outer.close()
    assert time.monotonic() - until_s < 60, "it does not wait for the rest"
