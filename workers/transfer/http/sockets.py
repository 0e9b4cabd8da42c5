"""urllib3 on guarded sockets: connections of the engine, to addresses that were checked, and that can be cut off.

Problem: a blocked connect, TLS handshake, header wait or body read must end at once on cancel, from another thread; and
the address must be checked between DNS and connect. urllib3's pools do neither, and replacing them would mean writing
proxies, TLS and keep-alive again. So its pools stay, and two small connection classes make the socket. `SocketAborter`
holds a duplicate of the socket's descriptor: shutting that down wakes whoever is blocked on the original, plain or TLS
(SSLSocket.shutdown would drop the TLS layer and hand ciphertext to the reader).
"""

from __future__ import annotations

import contextlib
import errno
import http
import http.client
import io
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

from hive.net import challenges
from hive.net.addresses import AddressCheck
from hive.net.egress import Network, resolve
from hive.net.happy_eyeballs import MEMORY, connect
from hive.net.proxies import Proxy
from workers.transfer.http.low_water import LowWaterMark

#: Interim answers (100 to 199) before one answer.
MAX_INTERIM: Final = 16
#: Origins whose idle connections are kept. A signed URL's host is the same for thousands of files.
KEPT_ORIGINS = 16


class SocketAborter:
    """How to wake the thread that works on one request. Safe from any thread; `cut` never blocks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._handle: socket.socket | None = None
        self._peer: tuple[Any, ...] | None = None
        self._cut = False

    def hold(self, sock: socket.socket) -> None:
        """From now on `cut` shuts this socket down; raises ConnectionAbortedError when it was cut already."""
        with self._lock:
            self._drop()
            # Not sock.dup(): a TLS socket has none. The descriptor stays the same when TLS is laid over it.
            self._handle = socket.socket(fileno=os.dup(sock.fileno()))
            with contextlib.suppress(OSError):
                # Before it is connected there is none.
                self._peer = self._handle.getpeername()
            if self._cut:
                raise ConnectionAbortedError(errno.ECONNABORTED, "cut")

    def cut(self) -> None:
        """End whatever blocks, now and in future."""
        with self._lock:
            self._cut = True
            if self._handle is not None:
                with contextlib.suppress(OSError):
                    self._handle.shutdown(socket.SHUT_RDWR)

    def narrow(self, n_bytes: int) -> None:
        """Let the kernel take no more than about so many bytes ahead of the reader. For good: it cannot be undone."""
        with self._lock:
            if self._handle is not None:
                with contextlib.suppress(OSError):
                    self._handle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, n_bytes)

    def distrust(self) -> None:
        """The request had no answer: the other addresses of the name are tried before this one from now on."""
        with self._lock:
            if self._peer is not None and not self._cut:
                MEMORY.note(self._peer, good=False)

    def let_go(self) -> None:
        """The request is over; the connection may live on."""
        with self._lock:
            self._drop()

    @property
    def was_cut(self) -> bool:
        """Whether `cut` was called."""
        return self._cut

    def _drop(self) -> None:
        if self._handle is not None:
            self._handle.close()
        self._handle = None


class _DeadlineReader(io.RawIOBase):
    """A socket's file that stops reading at a deadline, though bytes keep trickling in."""

    def __init__(self, raw: io.RawIOBase) -> None:
        self._raw = raw
        self.deadline_s: float | None = None

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: Any) -> int | None:
        """As RawIOBase; raises TimeoutError after the deadline."""
        if self.deadline_s is not None and time.monotonic() > self.deadline_s:
            raise TimeoutError("the headers took too long")
        return self._raw.readinto(buffer)

    def close(self) -> None:
        """Close the socket's file too."""
        self._raw.close()
        super().close()


class NoAnswer(http.client.HTTPException):
    """The server announces an answer again and again, and gives none."""


class Body(http.client.HTTPResponse):
    """An answer whose body can be read into a buffer of one's own, as much as is there and no more.

    `read(n)` waits until all n bytes are there, so a slow line looks dead, and loses what it has when the connection
    breaks; `read1(n)` makes and shrinks a bytes object each time, which costs page faults.
    """

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp.close()
        self._reader = _DeadlineReader(sock.makefile("rb", buffering=0))
        self.fp = io.BufferedReader(self._reader)
        self._sock = sock
        self._mark = LowWaterMark(sock)
        #: What went wrong behind bytes that were given already.
        self._late_error: OSError | None = None
        self._head_s = 2 * (sock.gettimeout() or 0)
        _current.body = self

    def set_timeout(self, seconds: float) -> None:
        """From now on no read of the body waits longer."""
        self._sock.settimeout(seconds)

    def _read_status(self) -> tuple[str, int, str]:
        """The status line of the answer; what a proxy offers with a 407 is noted, as urllib3 drops that of a tunnel.

        What comes before it (100 to 199: early hints, a sign of life; RFC 9110, 15.2) is read past. http.client does
        that for 100 alone, and takes another one for the answer.
        """
        found: tuple[str, int, str] = super()._read_status()  # type: ignore[misc]
        for _ in range(MAX_INTERIM):
            if not 100 <= found[1] < 200 or found[1] == http.HTTPStatus.SWITCHING_PROTOCOLS:
                break
            http.client.parse_headers(self.fp)
            found = super()._read_status()  # type: ignore[misc]
        else:
            raise NoAnswer
        if found[1] == http.HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
            challenges.note(b"HTTP/1.1 407\r\n" + self.fp.peek(challenges.MAX_HEAD_BYTES))
        return found

    def begin(self) -> None:
        """Read status and headers, in twice the read time-out at most: a byte a second is not an answer."""
        self._reader.deadline_s = time.monotonic() + self._head_s if self._head_s else None
        super().begin()
        self._reader.deadline_s = None

    def read_into(self, buffer: memoryview) -> int:
        """Bytes put into the buffer: those that are there, or the next that come.

        0 at the end of the body. For bodies that are not chunked.
        """
        if self._late_error is not None:
            raise self._late_error
        if self.fp is None:
            return 0
        if self.length is not None:
            buffer = buffer[: self.length]
        self._mark.wait(self.length)
        n_bytes = self.fp.readinto1(buffer) if buffer else 0
        if n_bytes and isinstance(self._sock, ssl.SSLSocket):
            n_bytes += self._take_records(self._sock, buffer[n_bytes:])
        self._mark.count(n_bytes)
        if self.length is not None:
            self.length -= n_bytes
        if n_bytes == 0 or self.length == 0:
            self._mark.lower()
            self.close()
        return n_bytes

    def _take_records(self, sock: ssl.SSLSocket, buffer: memoryview) -> int:
        """Bytes of the TLS records that are here already. A read gives one record, of 16 KiB at most (SSL_read(3)), and
        a turn of the engine for each costs more than to decrypt it.
        """
        n_bytes, patience_s = 0, sock.gettimeout()
        sock.settimeout(0)
        try:
            while n_bytes < len(buffer) and (came := sock.recv_into(buffer[n_bytes:])):
                n_bytes += came
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        except OSError as error:
            self._late_error = error  # OpenSSL tells it once, and an end after that
        finally:
            sock.settimeout(patience_s)
        return n_bytes


class _Guarded(HTTPConnection):
    """What both kinds of connections do: check the address, connect to that very address, and hold the aborter."""

    response_class = Body

    def _new_conn(self) -> socket.socket:
        aborter = _current.aborter
        try:
            # The proxy's own address is the settings' word.
            found = resolve(self._dns_host, self.port, _current.check if self.proxy is None else None)
        except socket.gaierror as error:
            raise NameResolutionError(self.host, self, error) from error
        try:
            if aborter is None:
                return connect(found, lambda: self.timeout)
            return connect(found, lambda: self.timeout, hold=aborter.hold, given_up=lambda: aborter.was_cut)
        except TimeoutError as error:
            raise ConnectTimeoutError(self, "connecting timed out") from error
        except OSError as error:
            raise NewConnectionError(self, os.strerror(error.errno or 0)) from error

    def request(self, *args: Any, **kwargs: Any) -> None:
        """Send a request, over a kept connection or a new one."""
        if self.sock is not None and _current.aborter is not None:
            _current.aborter.hold(self.sock)
        super().request(*args, **kwargs)


class _GuardedTLS(_Guarded, HTTPSConnection):
    """https; name and certificate are those of the URL, the address is the checked one."""


class _HTTPPool(HTTPConnectionPool):
    ConnectionCls = _Guarded


class _HTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _GuardedTLS


def pool_manager(network: Network, scheme: str, proxy: Proxy | None, connections: int) -> urllib3.PoolManager:
    """A keep-alive pool of guarded connections for URLs of a scheme, directly or through a proxy."""
    options: dict[str, Any] = {"num_pools": KEPT_ORIGINS, "maxsize": connections}
    if "https" in (scheme, proxy and proxy.scheme):
        # Reading the certificates takes 40 ms; plain http does without.
        options["ssl_context"] = network.trust.context()
    manager = urllib3.PoolManager(**options) if proxy is None else _proxy_manager(proxy, options)
    manager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}
    return manager


def _proxy_manager(proxy: Proxy, options: dict[str, Any]) -> urllib3.ProxyManager:
    authorization = proxy.authorization
    headers = {"Proxy-Authorization": authorization} if authorization is not None else None
    if proxy.scheme == "https":
        options["proxy_ssl_context"] = options["ssl_context"]
    return urllib3.ProxyManager(proxy.url, proxy_headers=headers, **options)


@contextlib.contextmanager
def request_scope(aborter: SocketAborter, check: AddressCheck | None) -> Iterator[Callable[[], Body | None]]:
    """Requests of this thread inside the block use this aborter and check; the value gives the last answer's body."""
    _current.aborter, _current.check, _current.body = aborter, check, None
    try:
        yield lambda: _current.body
    finally:
        _current.aborter = _current.check = _current.body = None


class _Current(threading.local):
    """What the thread's request needs down where urllib3 makes the socket and the answer."""

    aborter: SocketAborter | None = None
    check: AddressCheck | None = None
    body: Body | None = None


_current = _Current()
