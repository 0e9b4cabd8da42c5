"""Connections to the outside: every socket of the engine is made here, to an address that was checked.

Problem: a blocked connect, TLS handshake, header wait or body read must end at once on cancel, from another thread; and
the address must be checked between DNS and connect. urllib3's pools do neither, and replacing them would mean writing
proxies, TLS and keep-alive again. So its pools stay, and two small connection classes make the socket. `SocketAborter`
holds a duplicate of the socket's descriptor: shutting that down wakes whoever is blocked on the original, plain or TLS
(SSLSocket.shutdown would drop the TLS layer and hand ciphertext to the reader).
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import io
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]

import certifi
import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

from hive.net.addresses import AddressCheck

#: Origins whose idle connections are kept. A signed URL's host is the same for thousands of files.
KEPT_ORIGINS = 16

#: Addresses of one name that are tried in turn; each may take the connect time-out.
MAX_ADDRESSES = 4


@dataclass(frozen=True)
class Network:
    """How to get out; nothing is read from the environment."""

    #: Proxy URLs by scheme ("http", "https"), and hosts that do without, as in NO_PROXY.
    proxies: Mapping[str, str] = field(default_factory=dict, repr=False)
    no_proxy: str = ""
    #: A file of CA certificates; None: the system's and certifi's.
    ca_bundle: str | None = None
    user_agent: str = "hive"
    #: (ip, host, port); raises UnsafeUrl. None: every address will do. See `address_check`.
    address_check: AddressCheck | None = None

    def proxy_for(self, scheme: str, host: str) -> str | None:
        """The proxy's URL for a target, or None."""
        proxy = self.proxies.get(scheme)
        bypassed = bool(self.no_proxy) and bool(proxy_bypass_environment(host, {"no": self.no_proxy}))
        return None if bypassed else proxy

    def check_proxied(self, host: str, port: int) -> None:
        """Raise UnsafeUrl when a target that a proxy would connect to resolves to a forbidden address here.

        The proxy resolves it again, and may know names that this machine does not; those are its business.
        """
        if self.address_check is None:
            return
        with contextlib.suppress(OSError, UnicodeError):
            for *_, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
                self.address_check(str(address[0]), host, port)


class SocketAborter:
    """How to wake the thread that works on one request. Safe from any thread; `cut` never blocks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._handle: socket.socket | None = None
        self._cut = False

    def hold(self, sock: socket.socket) -> None:
        """From now on `cut` shuts this socket down; raises ConnectionAbortedError when it was cut already."""
        with self._lock:
            self._drop()
            # Not sock.dup(): a TLS socket has none. The descriptor stays the same when TLS is laid over it.
            self._handle = socket.socket(fileno=os.dup(sock.fileno()))
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


class _Patience(io.RawIOBase):
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


class Body(http.client.HTTPResponse):
    """An answer whose body can be read into a buffer of one's own, as much as is there and no more.

    `read(n)` waits until all n bytes are there, so a slow line looks dead, and loses what it has when the connection
    breaks; `read1(n)` makes and shrinks a bytes object each time, which costs page faults.
    """

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp.close()
        self._patience = _Patience(sock.makefile("rb", buffering=0))
        self.fp = io.BufferedReader(self._patience)
        self._head_s = 2 * (sock.gettimeout() or 0)
        _current.body = self

    def begin(self) -> None:
        """Read status and headers, in twice the read time-out at most: a byte a second is not an answer."""
        self._patience.deadline_s = time.monotonic() + self._head_s if self._head_s else None
        super().begin()
        self._patience.deadline_s = None

    def read_into(self, buffer: memoryview) -> int:
        """Bytes put into the buffer by at most one system call.

        0 at the end of the body. For bodies that are not chunked.
        """
        if self.fp is None:
            return 0
        if self.length is not None:
            buffer = buffer[: self.length]
        n_bytes = self.fp.readinto1(buffer) if buffer else 0
        if self.length is not None:
            self.length -= n_bytes
        if n_bytes == 0 or self.length == 0:
            self.close()
        return n_bytes


class _Guarded(HTTPConnection):
    """What both kinds of connections do: check the address, connect to that very address, and hold the aborter."""

    response_class = Body

    def _new_conn(self) -> socket.socket:
        try:
            found = socket.getaddrinfo(self._dns_host, self.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            reason = error if isinstance(error, socket.gaierror) else socket.gaierror(str(error))
            raise NameResolutionError(self.host, self, reason) from error
        if _current.check is not None and self.proxy is None:
            for *_, address in found:
                _current.check(str(address[0]), self.host, self.port)
        return self._connect_to(found)

    def request(self, *args: Any, **kwargs: Any) -> None:
        """Send a request, over a kept connection or a new one."""
        if self.sock is not None and _current.aborter is not None:
            _current.aborter.hold(self.sock)
        super().request(*args, **kwargs)

    def _connect_to(self, found: list[Any]) -> socket.socket:
        problem: OSError = OSError(errno.EADDRNOTAVAIL, "no address")
        for family, kind, protocol, _, address in found[:MAX_ADDRESSES]:
            sock = socket.socket(family, kind, protocol)
            try:
                sock.settimeout(self.timeout)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if _current.aborter is not None:
                    _current.aborter.hold(sock)
                sock.connect(address)
            except OSError as error:
                sock.close()
                problem = error
                if _current.aborter is not None and _current.aborter.was_cut:
                    break
            else:
                return sock
        if isinstance(problem, TimeoutError):
            raise ConnectTimeoutError(self, "connecting timed out") from problem
        raise NewConnectionError(self, os.strerror(problem.errno or 0)) from problem


class _GuardedTLS(_Guarded, HTTPSConnection):
    """https; name and certificate are those of the URL, the address is the checked one."""


class _HTTPPool(HTTPConnectionPool):
    ConnectionCls = _Guarded


class _HTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _GuardedTLS


def pool_manager(network: Network, scheme: str, proxy: str | None, connections: int) -> urllib3.PoolManager:
    """A keep-alive pool of guarded connections for URLs of a scheme, directly or through a proxy."""
    options: dict[str, Any] = {"num_pools": KEPT_ORIGINS, "maxsize": connections}
    if scheme == "https" or (proxy or "").startswith("https:"):
        # Reading the certificates takes 40 ms; plain http does without.
        options["ssl_context"] = _tls(network)
    manager = urllib3.ProxyManager(proxy, **options) if proxy else urllib3.PoolManager(**options)
    manager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}
    return manager


@contextlib.contextmanager
def requesting(aborter: SocketAborter, check: AddressCheck | None) -> Iterator[Callable[[], Body | None]]:
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


def _tls(network: Network) -> ssl.SSLContext:
    if network.ca_bundle is not None:
        return ssl.create_default_context(cafile=network.ca_bundle)
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context
