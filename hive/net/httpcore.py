"""httpcore2 on guarded sockets: for the Hub's API and for webhooks.

Problem: the time-outs of HTTP libraries count from byte to byte, so a byte every nine seconds keeps a request of "ten
seconds" alive for ever. So each wait is also given what is left of a deadline, which the caller knows.
"""

from __future__ import annotations

import contextlib
import math
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import httpcore2
from urllib3.util.ssltransport import SSLTransport
from urllib3.util.wait import wait_for_read

from hive.net import challenges, egress, happy_eyeballs
from hive.net.addresses import AddressCheck
from hive.net.egress import Network
from hive.net.proxies import Proxy

#: The moment (time.monotonic) at which all waits of the present request are over, in seconds; infinity for none.
Deadline = Callable[[], float]

#: What a request ends with that got no answer, or one that is none.
FAILURES: Final = (
    httpcore2.TimeoutException,
    httpcore2.NetworkError,
    httpcore2.ProtocolError,
    httpcore2.ProxyError,
    OSError,
    UnicodeError,
)

#: Seconds that a wait has at least: 0 would mean "do not block" to a socket.
_LEAST_S: Final = 0.001


def pool(
    network: Network, scheme: str, proxy: Proxy | None, deadline_s: Deadline, connections: int
) -> httpcore2.ConnectionPool:
    """Kept connections for URLs of a scheme, straight or by the proxy, whose address is the settings' word and is not
    checked.
    """
    context = network.trust.context() if "https" in (scheme, proxy and proxy.scheme) else None
    if proxy is None:
        return httpcore2.ConnectionPool(
            ssl_context=context,
            max_connections=connections,
            network_backend=GuardedBackend(network.address_check, deadline_s),
        )
    authorization = proxy.authorization
    return httpcore2.HTTPProxy(
        httpcore2.URL(scheme=proxy.scheme, host=proxy.host, port=proxy.port, target="/"),
        proxy_headers={"Proxy-Authorization": authorization} if authorization is not None else None,
        ssl_context=context,
        proxy_ssl_context=context if proxy.scheme == "https" else None,
        max_connections=connections,
        network_backend=GuardedBackend(None, deadline_s, proxy),
    )


class GuardedBackend(httpcore2.NetworkBackend):
    """Makes sockets, to addresses that were checked, all of whose waits end at the deadline.

    With a proxy it is the proxy that they lead to, and what fails then is a ProxyError.
    """

    def __init__(self, check: AddressCheck | None, deadline_s: Deadline, proxy: Proxy | None = None) -> None:
        self._check = check
        self._deadline_s = deadline_s
        self._proxy = proxy

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        """A connection to the first address that answers. Raises UnsafeUrl, and what httpcore2 expects."""
        try:
            found = egress.resolve(host.strip("[]"), port, self._check)
            sock = happy_eyeballs.connect(found, lambda: _left_s(self._deadline_s, timeout))
        except OSError as error:
            if self._proxy is not None:
                raise httpcore2.ProxyError(error) from error
            if isinstance(error, TimeoutError):
                raise httpcore2.ConnectTimeout(error) from error
            raise httpcore2.ConnectError(error) from error
        proxy_first = self._proxy is not None and self._proxy.scheme == "https"
        return DeadlineStream(sock, self._deadline_s, proxy_first=proxy_first)


class DeadlineStream(httpcore2.NetworkStream):
    """A connection all of whose waits end at the deadline."""

    def __init__(self, sock: Any, deadline_s: Deadline, *, proxy_first: bool = False) -> None:
        """`proxy_first`: the first TLS layer on it is with the proxy."""
        self._sock = sock
        self._deadline_s = deadline_s
        self._proxy_first = proxy_first
        self._heard = False
        self._peer: tuple[Any, ...] | None = None
        if isinstance(sock, socket.socket):
            with contextlib.suppress(OSError):
                # Now: who has hung up has no name any more.
                self._peer = sock.getpeername()

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """As NetworkStream."""
        with _translated(httpcore2.ReadTimeout, httpcore2.ReadError):
            self._sock.settimeout(_left_s(self._deadline_s, timeout))
            try:
                received: bytes = self._sock.recv(max_bytes)
            except OSError:
                if not self._heard:
                    self.distrust()
                raise
            if received:
                self._heard = True
                challenges.note(received)
            elif not self._heard:
                self.distrust()
            return received

    def distrust(self) -> None:
        """The other addresses of the name are tried before this one from now on."""
        if self._peer is not None:
            happy_eyeballs.MEMORY.note(self._peer, good=False)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """As NetworkStream."""
        left = memoryview(buffer)
        with _translated(httpcore2.WriteTimeout, httpcore2.WriteError):
            while left:
                self._sock.settimeout(_left_s(self._deadline_s, timeout))
                left = left[self._sock.send(left) :]

    def close(self) -> None:
        """As NetworkStream."""
        self._sock.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        """As NetworkStream; also inside TLS, where a proxy is spoken to over https."""
        timed_out: type[Exception] = httpcore2.ProxyError if self._proxy_first else httpcore2.ConnectTimeout
        failed: type[Exception] = httpcore2.ProxyError if self._proxy_first else httpcore2.ConnectError
        try:
            with _translated(timed_out, failed):
                self._sock.settimeout(_left_s(self._deadline_s, timeout))
                name = server_hostname.strip("[]") if server_hostname else None
                if isinstance(self._sock, ssl.SSLSocket):
                    outer: Any = _OuterTls(self._sock, self._deadline_s, timeout)
                    return DeadlineStream(SSLTransport(outer, ssl_context, name), self._deadline_s)
                return DeadlineStream(ssl_context.wrap_socket(self._sock, server_hostname=name), self._deadline_s)
        except BaseException:
            self.close()
            raise

    def get_extra_info(self, info: str) -> Any:
        """Whether something can be read ("is_readable"): an idle connection that can is a closed one."""
        if info == "is_readable":
            return wait_for_read(self._sock, timeout=0)
        return None


class _OuterTls:
    """The connection to a proxy as a TLS connection inside it needs it: each wait of its own ends at the deadline.

    A handshake, and a record, of the inner one takes as many waits as the other side makes of it, byte by byte.
    """

    def __init__(self, sock: ssl.SSLSocket, deadline_s: Deadline, timeout_s: float | None) -> None:
        self._sock = sock
        self._deadline_s = deadline_s
        self._timeout_s = timeout_s
        self.fileno, self.close = sock.fileno, sock.close

    def settimeout(self, timeout_s: float | None) -> None:
        """Seconds for each wait from now on."""
        self._timeout_s = timeout_s

    def recv(self, max_bytes: int) -> bytes:
        """As that of a socket."""
        self._sock.settimeout(_left_s(self._deadline_s, self._timeout_s))
        return self._sock.recv(max_bytes)

    def sendall(self, data: bytes | memoryview) -> None:
        """As that of a socket."""
        self._sock.settimeout(_left_s(self._deadline_s, self._timeout_s))
        self._sock.sendall(data)


@contextlib.contextmanager
def _translated(timed_out: type[Exception], failed: type[Exception]) -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise timed_out(error) from error
    except OSError as error:
        raise failed(error) from error


def _left_s(deadline_s: Deadline, timeout_s: float | None) -> float | None:
    """Seconds for the next wait, None for as many as it takes. Raises TimeoutError when there are none."""
    left_s = deadline_s() - time.monotonic()
    if left_s <= 0:
        raise TimeoutError("the time for the whole request is over")
    if left_s == math.inf:
        return timeout_s
    return max(_LEAST_S, left_s if timeout_s is None else min(left_s, timeout_s))
