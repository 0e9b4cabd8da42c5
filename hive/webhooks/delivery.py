"""One POST to a server outside, to an address that was checked, within a time that is kept.

Problem: a webhook's URL may come from a stranger, so it may lead into the own network, and its server may trickle. The
libraries resolve a name themselves after any check of ours could, and their time-outs count from byte to byte, so a
byte every nine seconds keeps a request of "ten seconds" alive for ever. So the sockets are made here, under the HTTP
client (a network backend of httpcore2): each name is resolved once, every address of it is checked, the connection
goes to one of those, and each wait is given what is left of the whole.

Redirects are not followed, and the answer's body is thrown away.
"""

from __future__ import annotations

import contextlib
import functools
import socket
import ssl
import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]

import certifi
import httpcore2

from hive.net.addresses import AddressCheck
from hive.net.retry_after import parse_retry_after
from hive.net.urls import DEFAULT_PORTS, Url

#: Bytes of an answer's body that are taken before the connection is closed.
MAX_ANSWER_BYTES = 65_536
#: Addresses of one name that are tried in turn.
MAX_ADDRESSES = 4

_FAILURES = (
    httpcore2.TimeoutException,
    httpcore2.NetworkError,
    httpcore2.ProtocolError,
    httpcore2.ProxyError,
    OSError,
    UnicodeError,
)


class Answer(NamedTuple):
    """What a server said: the status, and the seconds that it asks to wait (None where it does not)."""

    status: int
    retry_after_s: float | None


class Unanswered(OSError):
    """No answer came. The text is for people and holds neither the URL's path nor a password."""


class Way(NamedTuple):
    """How to get out; nothing is read from the environment."""

    #: Proxy URLs by scheme, and hosts that do without, as in NO_PROXY.
    proxies: Mapping[str, str] = {}
    no_proxy: str = ""
    #: A file of CA certificates; None: the system's and certifi's.
    ca_bundle: str | None = None
    #: (ip, host, port); raises UnsafeUrl. None: every address will do.
    address_check: AddressCheck | None = None

    def proxy_for(self, url: Url) -> str | None:
        """The proxy's URL for a target, or None."""
        proxy = self.proxies.get(url.scheme)
        bypassed = bool(self.no_proxy) and bool(proxy_bypass_environment(url.host, {"no": self.no_proxy}))
        return None if bypassed else proxy


def post(url: Url, body: bytes, headers: Mapping[str, str], way: Way, timeout_s: float) -> Answer:
    """Send the body; gives the answer, whatever its status. Blocks for `timeout_s` at most, but for the resolver.

    Raises:
        Unanswered: no connection, or no whole head of an answer in time.
        UnsafeUrl: the address is not one that may be connected to.
    """
    end_s = time.monotonic() + timeout_s
    port = None if url.port == DEFAULT_PORTS[url.scheme] else url.port
    target = httpcore2.URL(scheme=url.scheme, host=url.host, port=port, target=url.target)
    waits = dict.fromkeys(("connect", "read", "write", "pool"), timeout_s)
    extensions = {"timeout": waits, "sni_hostname": _bare(url.host)}
    try:
        with (
            _pool(url, way, end_s) as pool,
            pool.stream("POST", target, headers=list(headers.items()), content=body, extensions=extensions) as answer,
        ):
            _throw_away(answer)
            said = {name.lower(): value for name, value in answer.headers}.get(b"retry-after", b"")
            return Answer(answer.status, parse_retry_after(said.decode("latin-1")))
    except _FAILURES as error:
        raise Unanswered(_reason(error, timeout_s)) from None


def _pool(url: Url, way: Way, end_s: float) -> httpcore2.ConnectionPool:
    """One connection, straight or by the proxy, whose address is the settings' word and is not checked."""
    context = _tls(way.ca_bundle) if url.scheme == "https" else None
    proxy = way.proxy_for(url)
    if proxy is None:
        backend = _Backend(end_s, way.address_check)
        return httpcore2.ConnectionPool(ssl_context=context, max_connections=1, network_backend=backend)
    if way.address_check is not None:
        # The proxy resolves it again, and may know names that this machine does not; those are its business.
        with contextlib.suppress(OSError, UnicodeError):
            _resolve(url.host, url.port, way.address_check)
    parts = urlsplit(proxy)
    login = (unquote(parts.username), unquote(parts.password or "")) if parts.username else None
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return httpcore2.HTTPProxy(
        httpcore2.URL(scheme=parts.scheme, host=parts.hostname or "", port=port, target="/"),
        proxy_auth=login,
        ssl_context=context,
        proxy_ssl_context=_tls(way.ca_bundle) if parts.scheme == "https" else None,
        max_connections=1,
        network_backend=_Backend(end_s, None),
    )


def _throw_away(answer: httpcore2.Response) -> None:
    """Take a body of reasonable length, so that an honest server is not cut off; its status is known already."""
    received = 0
    with contextlib.suppress(*_FAILURES):
        for chunk in answer.iter_stream():
            received += len(chunk)
            if received > MAX_ANSWER_BYTES:
                return


class _Backend(httpcore2.NetworkBackend):
    """Makes sockets, to addresses that were checked."""

    def __init__(self, end_s: float, check: AddressCheck | None) -> None:
        self._end_s = end_s
        self._check = check
        self._sockets = httpcore2.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        """A connection to the first address that answers."""
        problem: Exception = OSError("no address")
        for ip in _resolve(host, port, self._check)[:MAX_ADDRESSES]:
            try:
                stream = self._sockets.connect_tcp(ip, port, _left_s(self._end_s), local_address, socket_options)
                return _Timed(stream, self._end_s)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                problem = error
        raise problem


class _Timed(httpcore2.NetworkStream):
    """A connection all of whose waits together end at one moment."""

    def __init__(self, stream: httpcore2.NetworkStream, end_s: float) -> None:
        self._stream = stream
        self._end_s = end_s

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left_s(self._end_s))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _left_s(self._end_s))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        return _Timed(self._stream.start_tls(ssl_context, server_hostname, _left_s(self._end_s)), self._end_s)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _left_s(end_s: float) -> float:
    left_s = end_s - time.monotonic()
    if left_s <= 0:
        raise httpcore2.ReadTimeout
    return left_s


def _resolve(host: str, port: int, check: AddressCheck | None) -> list[str]:
    """All addresses of a name; raises UnsafeUrl when one of them is not allowed."""
    found = socket.getaddrinfo(_bare(host), port, type=socket.SOCK_STREAM)
    addresses = [str(address[0]) for *_, address in found]
    if check is not None:
        for ip in addresses:
            check(ip, host, port)
    return addresses


@functools.lru_cache(maxsize=4)
def _tls(ca_bundle: str | None) -> ssl.SSLContext:
    """Reading the certificates takes 40 ms: once."""
    context = ssl.create_default_context(cafile=ca_bundle)
    if ca_bundle is None:
        context.load_verify_locations(certifi.where())
    return context


def _reason(error: BaseException, timeout_s: float) -> str:
    if isinstance(error, httpcore2.TimeoutException):
        return f"no answer within {timeout_s:g} s"
    # httpcore2 drops the cause of an error, and keeps it as its text.
    cause = error.args[0] if error.args and isinstance(error.args[0], OSError) else error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted ({cause.verify_message})"
    if isinstance(cause, OSError) and cause.strerror:
        return f"cannot be reached ({cause.strerror})"
    return f"does not answer ({type(error).__name__})"


def _bare(host: str) -> str:
    return host.strip("[]")
