"""What lasts: half a minute without an event, a request that never ends. All proxies at once, since it is waiting."""

from __future__ import annotations

import contextlib
import socket
import time
from pathlib import Path

import pytest

from hive.wire.api import PROGRESS_PATH
from tests.proxies.guarded import Guarded
from tests.proxies.programs import NAMES, Proxy, running
from tests.support.downloads import claim, complete, create
from tests.support.programs import is_installed
from tests.support.sse_client import SseClient
from tests.support.waiting import wait_for

pytestmark = pytest.mark.slow

#: Keep-alives of a stream in 30 s of silence: one each 10 s, as hive has it without a setting.
KEEPALIVES = 3
#: Seconds that a request's head may take by the files, and until a proxy must have given up one that never ends.
HEAD_S, GIVEN_UP_S = 10.0, 25.0


class Slow:
    """A client that begins a request and never ends it."""

    def __init__(self, proxy: Proxy) -> None:
        self._begun = time.monotonic()
        self._socket = proxy.tls.wrap_socket(
            socket.create_connection(("localhost", proxy.port), 10), server_hostname="localhost"
        )
        self._socket.sendall(b"GET /v1/health HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
        self._socket.settimeout(0.01)
        self.lasted_s: float | None = None

    def is_given_up(self) -> bool:
        """Whether the proxy has closed the connection, with an answer or without."""
        try:
            while self.lasted_s is None and self._socket.recv(4096):
                pass
        except TimeoutError:
            return False
        except OSError:
            pass  # reset
        self.lasted_s = self.lasted_s or time.monotonic() - self._begun
        return True

    def close(self) -> None:
        self._socket.close()


def test_a_silent_stream_stays_and_a_slow_request_goes(guarded: Guarded, tmp_path: Path) -> None:
    names = [name for name in NAMES if is_installed(name)]
    if not names:
        pytest.skip("none of the proxies is installed")
    with contextlib.ExitStack() as stack:
        proxies = [stack.enter_context(running(name, tmp_path, guarded.ports)) for name in names]
        download_id = create(guarded.downloads)
        path = f"{PROGRESS_PATH}?id={download_id}"
        streams = [SseClient(proxy.url + path, guarded.header, tls=proxy.tls) for proxy in proxies]
        slow = [stack.enter_context(contextlib.closing(Slow(proxy))) for proxy in proxies]
        wait_for(lambda: all(client.is_given_up() for client in slow), "all slow requests are given up", GIVEN_UP_S)
        assert [name for name, client in zip(names, slow, strict=True) if (client.lasted_s or 0) < HEAD_S / 2] == []
        wait_for(lambda: all(stream.comments >= KEEPALIVES for stream in streams), "30 s of silence", 60)
        held = claim(guarded.downloads, download_id)
        guarded.downloads.claims.finish(held, 2, "complete", complete(), "/store/model.gguf")
        for stream in streams:
            stream.wait()
        assert [stream.done for stream in streams] == [1] * len(streams)
