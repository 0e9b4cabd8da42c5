"""The one way to the Hub's API: huggingface_hub's client on a transport of ours.

Problem: huggingface_hub keeps one global HTTP client without time-outs, reads proxies and certificates from its
environment, sleeps for as long as a 429 says and retries by itself, sends the token to whatever address the next page
is said to have, and reads replies of any size. Patching each call would miss some. So everything is done where all
its requests pass: in the transport. What goes wrong here leaves as hive's own error, which its retry loops let
through: retrying is the worker's business.
"""

from __future__ import annotations

import re
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final
from urllib.parse import urlsplit

import httpx2
from huggingface_hub import set_client_factory

from hive.errors import HubUnavailable
from hive.settings import Settings
from workers.sources.plan import RetryLater

#: Seconds to wait for a connection to the Hub, and for the next bytes of its reply.
CONNECT_TIMEOUT_S: Final = 10.0
READ_TIMEOUT_S: Final = 30.0
#: Longest reply of the API in bytes: a page of a thousand files has some 300 kB.
MAX_REPLY_BYTES: Final = 32 << 20
#: Longest and default wait in seconds that a 429 imposes. The Hub counts over five minutes.
MAX_RETRY_AFTER_S: Final = 900.0
DEFAULT_RETRY_AFTER_S: Final = 30.0

_TIMEOUTS: Final = {
    "connect": CONNECT_TIMEOUT_S,
    "read": READ_TIMEOUT_S,
    "write": READ_TIMEOUT_S,
    "pool": CONNECT_TIMEOUT_S,
}
_RESET_S = re.compile(r";\s*t\s*=\s*(\d{1,6})")
_lock = threading.Lock()
_installed: tuple[str, ...] | None = None


def install(settings: Settings) -> None:
    """Make huggingface_hub, which has one client per process, use this endpoint, proxy and certificates from now on."""
    global _installed
    proxy = _proxy_for(settings)
    wanted = (settings.hf_endpoint, proxy or "", settings.ca_bundle or "", settings.user_agent)
    with _lock:
        if _installed != wanted:
            set_client_factory(lambda: _client(settings, proxy))
            _installed = wanted


def origin_of(url: str) -> tuple[str, str, int]:
    """Scheme, host and port: the token goes to one origin only.

    Raises:
        ValueError: the URL has no valid port.
    """
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)


class HubTransport(httpx2.BaseTransport):
    """Time-outs, size limits and the token's origin for every request to the Hub, redirects and next pages included."""

    def __init__(self, inner: httpx2.BaseTransport, endpoint: str, user_agent: str) -> None:
        self._inner = inner
        self._own = origin_of(endpoint)
        self._user_agent = user_agent

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """The reply.

        Raises:
            HubUnavailable: no connection, a server's error, a reply that is too long or compressed, or one over plain
            http. RetryLater: the Hub limits requests.
        """
        target = origin_of(str(request.url))
        if target[0] != "https" and target != self._own:
            raise HubUnavailable("The Hub leads to an address without encryption, which hive does not follow.")
        if target != self._own:
            for name in ("authorization", "cookie"):
                request.headers.pop(name, None)
        request.headers["accept-encoding"] = "identity"
        request.headers["user-agent"] = self._user_agent
        request.extensions = {**request.extensions, "timeout": _TIMEOUTS}
        try:
            response = self._inner.handle_request(request)
        except httpx2.TransportError as error:
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
                received_bytes += len(chunk)
                if received_bytes > MAX_REPLY_BYTES:
                    raise HubUnavailable(f"The Hub sent a reply of more than {MAX_REPLY_BYTES >> 20} MiB.")
                yield chunk
        except httpx2.TransportError as error:
            raise _unavailable(error) from None

    def close(self) -> None:
        self._inner.close()


def _check(request: httpx2.Request, response: httpx2.Response) -> None:
    status = response.status_code
    if status == 429 or (status == 503 and "retry-after" in response.headers):
        raise RetryLater(_retry_after_s(response.headers))
    if status == 408 or status >= 500:
        raise HubUnavailable(f"The Hub answered with status {status}.", status=status)
    encoding = response.headers.get("content-encoding", "identity")
    if request.method != "HEAD" and encoding.lower() not in ("identity", ""):
        raise HubUnavailable("The Hub sent a compressed reply although hive asked for a plain one.")


def _retry_after_s(headers: httpx2.Headers) -> float:
    """Seconds to wait, from Retry-After (seconds or a date) or the Hub's own RateLimit header; within bounds."""
    seconds = DEFAULT_RETRY_AFTER_S
    value = headers.get("retry-after", "").strip()
    reset = _RESET_S.search(headers.get("ratelimit", ""))
    if value.isdecimal() and len(value) < 10:
        seconds = float(value)
    elif value:
        try:
            at = parsedate_to_datetime(value)
            seconds = (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
        except ValueError:
            pass
    elif reset is not None:
        seconds = float(reset[1])
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_S)


def _unavailable(error: httpx2.TransportError) -> HubUnavailable:
    """Without the error's own text, which may hold a proxy's password; its name says what happened."""
    kind = type(error).__name__
    reason = "did not answer in time" if isinstance(error, httpx2.TimeoutException) else "cannot be reached"
    return HubUnavailable(f"The Hub {reason} ({kind}). Try again later, or check HF_ENDPOINT and HTTPS_PROXY.")


def _client(settings: Settings, proxy: str | None) -> httpx2.Client:
    verify: ssl.SSLContext | bool = True
    if settings.ca_bundle:
        verify = ssl.create_default_context(cafile=settings.ca_bundle)
    inner = httpx2.HTTPTransport(verify=verify, trust_env=False, proxy=proxy)
    transport = HubTransport(inner, settings.hf_endpoint, settings.user_agent)
    return httpx2.Client(transport=transport, trust_env=False, follow_redirects=True, max_redirects=10)


def _proxy_for(settings: Settings) -> str | None:
    """The proxy on the way to the endpoint, or None where there is none or NO_PROXY names the Hub or its domain."""
    scheme, host, port = origin_of(settings.hf_endpoint)
    for entry in (settings.no_proxy or "").lower().split(","):
        name = entry.strip().removesuffix(f":{port}").removeprefix("*").lstrip(".")
        if entry.strip() == "*" or (name and f".{host}".endswith(f".{name}")):
            return None
    proxy = settings.proxies.get(scheme)
    return proxy if proxy is None or "://" in proxy else f"http://{proxy}"
