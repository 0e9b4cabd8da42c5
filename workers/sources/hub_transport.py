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
import threading
import time
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import urlsplit

import httpcore2
import httpx2
from huggingface_hub import set_client_factory

from hive.errors import HubUnavailable
from hive.net import httpcore
from hive.net.egress import Network
from hive.net.proxies import Proxy
from hive.net.retry_after import asked_wait_s
from hive.net.urls import DEFAULT_PORTS
from workers.sources.plan import RetryLater

#: Seconds to wait for a connection to the Hub, and for the next bytes of its reply.
CONNECT_TIMEOUT_S: Final = 10.0
READ_TIMEOUT_S: Final = 30.0
#: Longest reply of the API in bytes: a page of a thousand files has some 300 kB.
MAX_REPLY_BYTES: Final = 32 << 20
#: Seconds to wait after a 429 that does not say how long.
DEFAULT_RETRY_AFTER_S: Final = 30.0
#: A longer wait is not believed, in seconds: the Hub's windows have five minutes.
MAX_RETRY_AFTER_S: Final = 900.0
#: Most requests of one call, and its longest time in seconds: a listing has a page per thousand files.
MAX_REQUESTS: Final = 300
CALL_DEADLINE_S: Final = 600.0
#: Connections to the Hub's API that one process has at most.
MAX_CONNECTIONS: Final = 10
#: Redirects that are followed: a repository that was renamed, a mirror.
MAX_REDIRECTS: Final = 10

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
_lock = threading.Lock()
_installed: tuple[str, Network] | None = None


class _Call(threading.local):
    """The present call in this thread: whom it asks, and what is left of its requests and its time."""

    own: tuple[str, str, int] | None = None
    requests = 0
    until_s = 0.0


_call = _Call()


@contextlib.contextmanager
def asking(endpoint: str) -> Iterator[None]:
    """Inside the block this thread asks the Hub at `endpoint`, by huggingface_hub, within all bounds of this module.

    Outside of it, whoever else in the process uses huggingface_hub gets what they would get without us.
    """
    _call.own, _call.requests, _call.until_s = origin_of(endpoint), MAX_REQUESTS, time.monotonic() + CALL_DEADLINE_S
    try:
        yield
    finally:
        _call.own = None


def install(endpoint: str, network: Network) -> None:
    """Make huggingface_hub, which has one client per process, go this way from now on."""
    global _installed
    with _lock:
        if _installed != (endpoint, network):
            set_client_factory(lambda: _client(network))
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

    def __init__(self, inner: httpx2.BaseTransport, user_agent: str) -> None:
        self._inner = inner
        self._user_agent = user_agent

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """The reply.

        Raises:
            HubUnavailable: no connection, a server's error, a reply that is too long or compressed, or one over plain
            http. RetryLater: the Hub limits requests.
        """
        if _call.own is None:
            return self._inner.handle_request(request)
        _call.requests -= 1
        if _call.requests < 0:
            raise HubUnavailable("The Hub sends hive from page to page without end.")
        _guard_credentials(request, _call.own)
        request.headers["accept-encoding"] = "identity"
        request.headers["user-agent"] = self._user_agent
        request.extensions = {**request.extensions, "timeout": _TIMEOUTS}
        try:
            response = self._inner.handle_request(request)
        except FAILURES as error:
            raise _unavailable(error) from None
        try:
            _check(request, response)
        except BaseException:
            response.close()
            raise
        if isinstance(response.stream, httpx2.SyncByteStream):
            response.stream = _Bounded(response.stream)
        return response

    def close(self) -> None:
        """Close all connections."""
        self._inner.close()


class _Bounded(httpx2.SyncByteStream):
    """A body that ends in an error when it grows too long or breaks off."""

    def __init__(self, inner: httpx2.SyncByteStream) -> None:
        self._inner = inner

    def __iter__(self) -> Iterator[bytes]:
        received_bytes = 0
        try:
            for chunk in self._inner:
                if time.monotonic() > _call.until_s:
                    raise HubUnavailable("The Hub did not answer in time: its reply trickles.")
                received_bytes += len(chunk)
                if received_bytes > MAX_REPLY_BYTES:
                    raise HubUnavailable(f"The Hub sent a reply of more than {MAX_REPLY_BYTES >> 20} MiB.")
                yield chunk
        except FAILURES as error:
            raise _unavailable(error) from None

    def close(self) -> None:
        self._inner.close()


def _guard_credentials(request: httpx2.Request, own: tuple[str, str, int]) -> None:
    target = origin_of(str(request.url))
    if target != own:
        if target[0] != "https":
            raise HubUnavailable("The Hub leads to an address without encryption, which hive does not follow.")
        for name in ("authorization", "cookie"):
            request.headers.pop(name, None)


def _check(request: httpx2.Request, response: httpx2.Response) -> None:
    status = response.status_code
    if status == 429 or (status == 503 and "retry-after" in response.headers):
        wait_s = asked_wait_s(response.headers, MAX_RETRY_AFTER_S)
        raise RetryLater(DEFAULT_RETRY_AFTER_S if wait_s is None else wait_s)
    if status == 408 or status >= 500:
        raise HubUnavailable(f"The Hub answered with status {status}.", status=status)
    encoding = response.headers.get("content-encoding", "identity")
    if request.method != "HEAD" and encoding.lower() not in ("identity", ""):
        raise HubUnavailable("The Hub sent a compressed reply although hive asked for a plain one.")


def _unavailable(error: Exception) -> HubUnavailable:
    """Without the error's own text, which may hold a proxy's password; its name says what happened."""
    if time.monotonic() >= _call.until_s:
        return HubUnavailable("The Hub did not answer in time: its reply trickles.")
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
        port = url.port or DEFAULT_PORTS[url.scheme]
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


def _deadline_s() -> float:
    return _call.until_s if _call.own is not None else math.inf


def _client(network: Network) -> httpx2.Client:
    transport = HubTransport(_Pools(network), network.user_agent)
    return httpx2.Client(transport=transport, trust_env=False, follow_redirects=True, max_redirects=MAX_REDIRECTS)
