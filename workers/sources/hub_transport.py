"""The one way to the Hub's API: huggingface_hub's client on a transport of ours.

Problem: huggingface_hub keeps one global HTTP client without time-outs, reads proxies and certificates from its
environment, sleeps for as long as a 429 says and retries by itself, sends the token to whatever address the next page
is said to have, and reads replies of any size. Patching each call would miss some. So everything is done where all
its requests pass: in the transport. What goes wrong here leaves as hive's own error, which its retry loops let
through: retrying is the worker's business.
"""

from __future__ import annotations

import contextlib
import math
import re
import threading
import time
import zlib
from collections.abc import Iterable, Iterator
from http import HTTPStatus
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import httpcore2
import httpx2
from huggingface_hub import set_client_factory

from hive.errors import HiveError, HubRefused, HubUnavailable, ProxyRefused
from hive.net import challenges, httpcore
from hive.net.egress import Network
from hive.net.failures import (
    answered_by_proxy,
    final_failure,
    is_unknown_name,
    perhaps_of_proxy,
    proxy_trouble,
    unknown_name,
)
from hive.net.proxies import Proxy
from hive.net.retry_after import asked_wait_s
from hive.net.tls import Trust
from hive.net.urls import DEFAULT_PORTS
from hive.wire.pasted import HUB_HOSTS
from workers.sources.plan import RetryLater

#: Seconds to wait for a connection to the Hub, and for the next bytes of its reply.
CONNECT_TIMEOUT_S: Final = 10.0
READ_TIMEOUT_S: Final = 30.0
#: Longest reply of the API in bytes: a page of a thousand files has some 300 kB.
MAX_REPLY_BYTES: Final = 32 << 20
#: Bytes that are unpacked at a time: a megabyte of gzip may hold a gigabyte.
UNPACK_BYTES: Final = 256 << 10
#: Seconds for which a name that DNS does not know is asked for again, and between two tries.
NAME_GRACE_S: Final = 3.0
NAME_RETRY_S: Final = 1.0
#: Seconds to wait after a 429 that does not say how long.
DEFAULT_RETRY_AFTER_S: Final = 30.0
#: A longer wait is not believed, in seconds: the Hub's windows have five minutes.
MAX_RETRY_AFTER_S: Final = 900.0
#: Most requests of one call, and how many times one's longest time it has: a listing has a page per thousand files.
MAX_REQUESTS: Final = 300
CALL_TIMES: Final = 5
#: Statuses that may pass, below 500; and from 500 on those that do not.
TRY_AGAIN: Final = frozenset({408, 421, 423, 425})
NEVER: Final = frozenset({501, 505, 506, 508, 510, 511})
#: Connections to the Hub's API that one process has at most.
MAX_CONNECTIONS: Final = 10
#: The highest port that there is.
MAX_PORT: Final = 65_535
#: Redirects that are followed: a repository that was renamed, a mirror.
MAX_REDIRECTS: Final = 10

#: zlib's number for "gzip or zlib, look yourself", and the names of both in Content-Encoding.
_GZIP_OR_ZLIB: Final = 47
_RAW_DEFLATE: Final = -15
_UNPACKED: Final = frozenset({"gzip", "x-gzip", "deflate"})
_TRICKLES: Final = "The Hub did not answer in time: its reply trickles."

_TIMEOUTS: Final = {
    "connect": CONNECT_TIMEOUT_S,
    "read": READ_TIMEOUT_S,
    "write": READ_TIMEOUT_S,
    "pool": CONNECT_TIMEOUT_S,
}
#: How a connection fails, in httpcore2's classes.
FAILURES: Final = (
    httpcore2.TimeoutException,
    httpcore2.NetworkError,
    httpcore2.ProtocolError,
    httpcore2.ProxyError,
    OSError,
)
#: A link to the next page in a Link header.
_NEXT_PAGE: Final = re.compile(r"""<([^<>]{1,4096})>\s*;\s*rel="?next\b""")
_lock = threading.Lock()
_installed: tuple[str, Network] | None = None


class CallBounds(NamedTuple):
    """What one call may take: seconds for the head of an answer, which may take longer than what follows it; seconds
    for a whole answer with its headers, however it trickles; bytes of all its answers.
    """

    first_byte_s: float = READ_TIMEOUT_S
    answer_s: float = 120.0
    max_bytes: int = 64 << 20


class _Call(threading.local):
    """The present call in this thread: whom it asks, what is left of its requests and its time, and how long the
    present request may take.
    """

    own: tuple[str, str, int] | None = None
    requests = 0
    bytes_left = 0
    until_s = 0.0
    request_until_s = 0.0
    bounds = CallBounds()
    #: What to say of the proxy that the last answer has passed.
    hint = ""


_call = _Call()


@contextlib.contextmanager
def asking(endpoint: str, bounds: CallBounds = CallBounds()) -> Iterator[None]:  # noqa: B008 - a tuple
    """Inside the block this thread asks the Hub at `endpoint`, by huggingface_hub, within all bounds.

    Outside of it, whoever else in the process uses huggingface_hub gets what they would get without us.
    """
    _call.own, _call.requests, _call.bytes_left = origin_of(endpoint), MAX_REQUESTS, bounds.max_bytes
    _call.bounds, _call.until_s = bounds, time.monotonic() + CALL_TIMES * _answer_s(bounds)
    try:
        yield
    finally:
        _call.own = None


def _answer_s(bounds: CallBounds) -> float:
    """Seconds for one answer: never fewer than its head may take."""
    return max(bounds.answer_s, bounds.first_byte_s)


def hint() -> str:
    """A sentence, with a blank before it, about the proxy that this thread's last answer has passed; "" without one."""
    return _call.hint


def install(endpoint: str, network: Network) -> None:
    """Make huggingface_hub, which has one client per process, go this way from now on."""
    global _installed
    with _lock:
        if _installed != (endpoint, network):
            set_client_factory(lambda: client(network))
            _installed = (endpoint, network)


def origin_of(url: str) -> tuple[str, str, int]:
    """Scheme, host and port: the token goes to one origin only.

    Raises:
        ValueError: the URL has no valid port.
    """
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)


class HubTransport(httpx2.BaseTransport):
    """Time-outs, size limits and the token's origin for every request to the Hub, redirects and next pages included."""

    def __init__(self, inner: httpx2.BaseTransport, network: Network) -> None:
        self._inner = inner
        self._network = network

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """The reply; its body is plain, and ends in an error where it grows too long.

        Raises:
            HubUnavailable: no connection, or a server's error.
            HubRefused, TlsRefused, ProxyRefused, UnsafeUrl: what another try does not change.
            RetryLater: the Hub limits requests.
        """
        if _call.own is None:
            return self._inner.handle_request(request)
        _call.requests -= 1
        if _call.requests < 0:
            raise HubRefused("The Hub sends hive from page to page without end.")
        _call.request_until_s = min(_call.until_s, time.monotonic() + _answer_s(_call.bounds))
        port = port_of(request.url)
        _guard_credentials(request, _call.own)
        request.headers["accept-encoding"] = "identity"
        request.headers["user-agent"] = self._network.user_agent
        waits = {**_TIMEOUTS, "read": _call.bounds.first_byte_s}
        request.extensions = {**request.extensions, "timeout": waits}
        host = request.url.host
        proxy = self._network.proxies.find(request.url.scheme, host, port)
        response = self._asked(request, host, proxy)
        # The body is read by the same numbers, and for it there is less patience.
        waits["read"] = min(_TIMEOUTS["read"], _call.bounds.first_byte_s)
        _call.hint = perhaps_of_proxy(response.headers, proxy) if request.url.scheme == "http" else ""
        try:
            _check(response, proxy, request.url)
            assert isinstance(response.stream, httpx2.SyncByteStream)
            response.stream = _Body(response.stream, _encoding(request, response), host)
            _own_next_page(request, response)
        except BaseException:
            response.close()
            raise
        return response

    def _asked(self, request: httpx2.Request, host: str, proxy: Proxy | None) -> httpx2.Response:
        """The reply. A name that DNS does not know is asked for again: a machine that wakes up has no network yet."""
        until_s = time.monotonic() + NAME_GRACE_S
        while True:
            try:
                return self._inner.handle_request(request)
            except FAILURES as error:
                if not is_unknown_name(error):
                    raise _failure(error, host, proxy, self._network.trust) from None
                if time.monotonic() >= until_s:
                    setting = "HF_ENDPOINT" if proxy is None else proxy.variable
                    why = f"{unknown_name(host, proxy)}: DNS does not know the name"
                    raise HubRefused(f"The Hub cannot be reached: {why}. Check {setting}, and the network.") from None
            time.sleep(NAME_RETRY_S)

    def close(self) -> None:
        """Close all connections."""
        self._inner.close()


class _Body(httpx2.SyncByteStream):
    """A body, unpacked, that ends in an error when it grows too long or breaks off."""

    def __init__(self, inner: httpx2.SyncByteStream, encoding: str, host: str) -> None:
        self._inner = inner
        self._unpack = _plain if encoding == "identity" else _unpacked
        self._host = host

    def __iter__(self) -> Iterator[bytes]:
        received_bytes = 0
        try:
            for chunk in self._unpack(self._inner):
                received_bytes += len(chunk)
                _call.bytes_left -= len(chunk)
                if received_bytes > MAX_REPLY_BYTES:
                    raise HubRefused(f"The Hub sent a reply of more than {MAX_REPLY_BYTES >> 20} MiB.")
                if _call.bytes_left < 0:
                    raise HubRefused(f"The Hub sent more than {_call.bounds.max_bytes >> 20} MiB for one listing.")
                yield chunk
        except FAILURES as error:
            raise _failure(error, self._host, None) from None

    def close(self) -> None:
        self._inner.close()


def _plain(chunks: Iterable[bytes]) -> Iterator[bytes]:
    for chunk in chunks:
        if time.monotonic() > _call.request_until_s:
            raise HubUnavailable(_TRICKLES)
        yield chunk


def _unpacked(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """What was packed with gzip or zlib, in small pieces however well it was packed."""
    unpacker, head = None, b""
    try:
        for chunk in _plain(chunks):
            left = head = head + chunk if unpacker is None else chunk
            if unpacker is None and len(head) < 2:
                continue
            unpacker = unpacker or zlib.decompressobj(_GZIP_OR_ZLIB if _has_header(head) else _RAW_DEFLATE)
            while left:
                if unpacker.eof:
                    # One packed piece after the other is one packed whole.
                    unpacker = zlib.decompressobj(_GZIP_OR_ZLIB)
                yield unpacker.decompress(left, UNPACK_BYTES)
                left = unpacker.unused_data if unpacker.eof else unpacker.unconsumed_tail
    except zlib.error:
        raise HubRefused("The Hub sent a compressed reply that cannot be unpacked.") from None
    if unpacker is None or not unpacker.eof:
        raise HubUnavailable("The Hub's reply broke off.")


def _has_header(head: bytes) -> bool:
    """Whether these are the first bytes of gzip or zlib; some servers mean the bare stream by `deflate`."""
    return head[:2] == b"\x1f\x8b" or (head[0] & 0x0F == 8 and int.from_bytes(head[:2], "big") % 31 == 0)


def _encoding(request: httpx2.Request, response: httpx2.Response) -> str:
    """How the body is packed; httpx2 is not told, or it would unpack without a bound. Raises HubRefused."""
    encoding: str = response.headers.get("content-encoding", "").strip().lower() or "identity"
    if request.method == "HEAD" or encoding in ("identity", "none"):
        return "identity"
    if encoding not in _UNPACKED:
        raise HubRefused(f"The Hub sent a compressed reply ({encoding[:20]}) although hive asked for a plain one.")
    for name in ("content-encoding", "content-length"):
        if name in response.headers:
            del response.headers[name]
    return encoding


def _own_next_page(request: httpx2.Request, response: httpx2.Response) -> None:
    """Make the next page of a listing an address of the endpoint's, where a mirror passes on what the Hub itself says,
    or leaves the host away.
    """
    link = response.headers.get("link", "")
    found = _NEXT_PAGE.search(link)
    if found is None:
        return
    target = urlsplit(found[1])
    if (target.hostname in HUB_HOSTS and target.hostname != request.url.host) or not target.scheme:
        prefix = request.url.path.partition("/api/")[0] if target.path.startswith("/api/") else ""
        own = request.url.join(f"{prefix}{target.path}?{target.query}")
        response.headers["link"] = f'<{own}>; rel="next"'


def _guard_credentials(request: httpx2.Request, own: tuple[str, str, int]) -> None:
    target = origin_of(str(request.url))
    if target != own:
        if target[0] != "https":
            raise HubRefused("The Hub leads to an address without encryption, which hive does not follow.")
        for name in ("authorization", "cookie"):
            request.headers.pop(name, None)


def _check(response: httpx2.Response, proxy: Proxy | None, url: httpx2.URL) -> None:
    """Raise what the status means; what it says of the model is for others to read."""
    host, plain = url.host, url.scheme == "http"
    status = response.status_code
    if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED and proxy is not None:
        raise ProxyRefused(proxy.refusal(challenges.unspoken()))
    if proxy is not None and plain and (said := answered_by_proxy(status, response.headers, host, proxy)) is not None:
        raise HubUnavailable(f"The Hub cannot be reached: {said}.") if isinstance(said, str) else said
    if status == 429 or (status == 503 and "retry-after" in response.headers):
        wait_s = asked_wait_s(response.headers, MAX_RETRY_AFTER_S)
        raise RetryLater(DEFAULT_RETRY_AFTER_S if wait_s is None else wait_s)
    if status in TRY_AGAIN or (status >= 500 and status not in NEVER):
        if status >= 500:
            _distrust(response)
        raise HubUnavailable(f"The Hub answered with status {status}.", status=status)
    if 300 <= status < 400 and not response.has_redirect_location:
        raise HubRefused(f"The Hub redirects ({status}) without saying where to.", status=status)
    if response.has_redirect_location and not _has_host(url, response.headers["location"]):
        raise HubRefused(f"The Hub redirects ({status}) to an address without a host.", status=status)


def _has_host(url: httpx2.URL, location: str) -> bool:
    """Whether a redirect leads to a host: httpx2 does not look. What it cannot read at all it says itself."""
    with contextlib.suppress(httpx2.InvalidURL):
        return bool(url.join(location).host)
    return True


def _distrust(response: httpx2.Response) -> None:
    """Another address of the name comes first from now on."""
    stream = response.extensions.get("network_stream")
    if isinstance(stream, httpcore.DeadlineStream):
        stream.distrust()


def _failure(error: Exception, host: str, proxy: Proxy | None, trust: Trust | None = None) -> HiveError:
    """Without the error's own text, which may hold a proxy's password; its name says what happened."""
    if time.monotonic() >= _call.request_until_s:
        return HubUnavailable(_TRICKLES)
    final = final_failure(error, host, proxy, trust)
    if final is not None:
        return final
    if (trouble := proxy_trouble(error, host, proxy)) is not None:
        return HubUnavailable(f"The Hub cannot be reached: {trouble}.")
    kind = type(error).__name__
    reason = "did not answer in time" if isinstance(error, httpcore2.TimeoutException) else "cannot be reached"
    return HubUnavailable(f"The Hub {reason} ({kind}). Try again later, or check HF_ENDPOINT and HTTPS_PROXY.")


class _Pools(httpx2.BaseTransport):
    """httpx2 on the guarded connections of hive.net: a pool for each way out, chosen for each URL."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._pools: dict[tuple[str, Proxy | None], httpcore2.ConnectionPool] = {}

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """The reply. Raises what httpcore2 raises, and UnsafeUrl."""
        url = request.url
        port = port_of(url)
        proxy = self._network.proxies.find(url.scheme, url.host, port)
        if proxy is not None:
            self._network.check_proxied(url.host.strip("[]"), port)
        with _lock:
            pool = self._pools.get((url.scheme, proxy))
            if pool is None:
                pool = httpcore.pool(self._network, url.scheme, proxy, _deadline_s, MAX_CONNECTIONS)
                self._pools[url.scheme, proxy] = pool
        assert isinstance(request.stream, httpx2.SyncByteStream)
        answer = pool.handle_request(
            httpcore2.Request(
                method=request.method,
                url=httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                headers=request.headers.raw,
                content=request.stream,
                extensions=request.extensions,
            )
        )
        return httpx2.Response(
            answer.status, headers=answer.headers, stream=_Stream(answer.stream), extensions=answer.extensions
        )

    def close(self) -> None:
        """Close all connections."""
        for pool in self._pools.values():
            pool.close()


class _Stream(httpx2.SyncByteStream):
    """A body as httpcore2 brings it."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __iter__(self) -> Iterator[bytes]:
        yield from self._inner

    def close(self) -> None:
        self._inner.close()


def port_of(url: httpx2.URL) -> int:
    """The port of a URL. Raises HubRefused for one that is neither http nor https, or has a port that is none."""
    if url.scheme not in DEFAULT_PORTS:
        raise HubRefused("The Hub leads to an address that is neither http nor https.")
    if (url.port or 0) > MAX_PORT:
        raise HubRefused("The Hub leads to an address with a port that is none.")
    return url.port or DEFAULT_PORTS[url.scheme]


def _deadline_s() -> float:
    return _call.request_until_s if _call.own is not None else math.inf


def client(network: Network) -> httpx2.Client:
    """A client whose requests go this way inside `asking`."""
    transport = HubTransport(_Pools(network), network)
    return httpx2.Client(transport=transport, trust_env=False, follow_redirects=True, max_redirects=MAX_REDIRECTS)
