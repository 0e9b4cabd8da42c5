"""What a client asks, and what an answer means: shared by `Client` and `AsyncClient`, which only carry it over the
wire.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from ipaddress import ip_address
from typing import Any, Final, Generic, NamedTuple, TypeVar
from urllib.parse import quote

import httpx2
import msgspec

from hive.client.watch import PATIENCE_S, Watch
from hive.errors import HiveError, ServerUnreachable, all_errors
from hive.version import VERSION
from hive.wire.api import Bandwidth, Deleted, Download, ErrorReply, Health, Model, Page, Running, Started, Worker
from hive.wire.jobs import Priority

T = TypeVar("T")

#: Where a server listens when nobody says otherwise.
DEFAULT_URL: Final = "http://127.0.0.1:8080"
#: Seconds for a connection, and for writing a request.
CONNECT_TIMEOUT_S: Final = 5.0
#: Seconds without a byte. The server sends a keep-alive every 10 s, so three were missed; the library's 5 s would cut
#: each quiet stream.
READ_TIMEOUT_S: Final = 30.0
#: Entries asked for at a time.
PAGE_LIMIT: Final = 100
#: HTTP statuses that a watch takes for "not now": what stands in front of a server says them while it restarts.
PASSING_STATUSES: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
#: The address of the event streams.
PROGRESS_PATH: Final = "/v1/models/download/progress"


class Call(NamedTuple, Generic[T]):
    """One request, and what its answer is decoded into."""

    method: str
    path: str
    reply: type[T]
    params: dict[str, str] | None = None
    body: dict[str, Any] | None = None


MODELS: Final = Call("GET", "/v1/models", Page[Model])
WORKERS: Final = Call("GET", "/v1/workers", Page[Worker])
HEALTH: Final = Call("GET", "/v1/health", Health)
BANDWIDTH: Final = Call("GET", "/v1/settings/bandwidth", Bandwidth)
RUNNING: Final = Call("GET", "/v1/settings/downloads", Running)


def download(
    model_ref: str,
    revision: str | None,
    include: Iterable[str],
    exclude: Iterable[str],
    update: bool,
    hf_token: str | None,
    sha256: str | None,
    max_bytes_per_second: int | None = None,
    priority: Priority = "normal",
    webhook_url: str | None = None,
) -> Call[Started]:
    """Ask for a model; what was not given is left out."""
    given: dict[str, Any] = {
        "revision": revision,
        "include": list(include),
        "exclude": list(exclude),
        "update": update,
        "hf_token": hf_token,
        "sha256": sha256,
        "max_bytes_per_second": max_bytes_per_second,
        "priority": priority if priority != "normal" else None,
        "webhook_url": webhook_url,
    }
    body = {"model_ref": model_ref} | {name: value for name, value in given.items() if value}
    return Call("POST", "/v1/models/download", Started, body=body)


def downloads(status: str | None, limit: int, cursor: str | None) -> Call[Page[Download]]:
    """One page of downloads."""
    given = {"status": status, "limit": str(min(limit, PAGE_LIMIT)), "cursor": cursor}
    return Call("GET", "/v1/downloads", Page[Download], params={name: value for name, value in given.items() if value})


def get(download_id: str) -> Call[Download]:
    """One download."""
    return Call("GET", f"/v1/downloads/{quote(download_id, safe='')}", Download)


def cancel(download_id: str, *, purge: bool) -> Call[Download]:
    """End a download; with `purge` its partial files go too."""
    params = {"purge": "true"} if purge else {}
    return Call("DELETE", f"/v1/downloads/{quote(download_id, safe='')}", Download, params=params)


def pause(download_id: str) -> Call[Download]:
    """Set a download aside."""
    return Call("POST", f"/v1/downloads/{quote(download_id, safe='')}/pause", Download)


def resume(download_id: str) -> Call[Download]:
    """Let a paused download go on."""
    return Call("POST", f"/v1/downloads/{quote(download_id, safe='')}/resume", Download)


def set_priority(download_id: str, priority: Priority) -> Call[Download]:
    """Change how soon a download gets a worker."""
    path = f"/v1/downloads/{quote(download_id, safe='')}/priority"
    return Call("PUT", path, Download, body={"priority": priority})


def retry(download_id: str) -> Call[Started]:
    """Try again what failed or was cancelled."""
    return Call("POST", f"/v1/downloads/{quote(download_id, safe='')}/retry", Started)


def model(model_id: str) -> Call[Model]:
    """One model. Slashes, colons and @ stay as they are: a proxy may refuse an encoded slash."""
    return Call("GET", f"/v1/models/{quote(model_id, safe='/:@')}", Model)


def delete_model(model_id: str) -> Call[Deleted]:
    """Delete a model."""
    return Call("DELETE", f"/v1/models/{quote(model_id, safe='/:@')}", Deleted)


def set_running_limit(max_running: int | None) -> Call[Running]:
    """Limit how many downloads run at once in the whole fleet; None: no limit."""
    return Call("PUT", "/v1/settings/downloads", Running, body={"max_running": max_running})


def set_bandwidth(bytes_per_second: int | None) -> Call[Bandwidth]:
    """Limit what all workers together take from the network; None: no limit."""
    return Call("PUT", "/v1/settings/bandwidth", Bandwidth, body={"bytes_per_second": bytes_per_second})


class Connection:
    """Where the server is, how to reach it, and what its answers mean. Does no I/O itself."""

    def __init__(
        self,
        address: str = DEFAULT_URL,
        *,
        patience_s: float = PATIENCE_S,
        read_timeout_s: float = READ_TIMEOUT_S,
    ) -> None:
        self._url = server_url(address)
        #: The server's address as it may be shown: without a password.
        self.url = str(httpx2.URL(self._url).copy_with(username=None, password=None)).rstrip("/")
        self._patience_s = patience_s
        self._read_timeout_s = read_timeout_s

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    def _options(self) -> dict[str, Any]:
        return {
            "base_url": self._url,
            "timeout": httpx2.Timeout(CONNECT_TIMEOUT_S, read=self._read_timeout_s),
            "headers": {"User-Agent": f"hive/{VERSION}", "Accept": "application/json"},
            # A proxy of the environment has no way to this machine's own loopback.
            "trust_env": not is_loopback(self._url),
            # Loading the certificate authorities takes 40 ms, and plain HTTP has no use for them. This context trusts
            # none.
            "verify": True if self._url.startswith("https:") else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
        }

    def _unreachable(self, error: Exception | None) -> ServerUnreachable:
        reason = (str(error) or type(error).__name__) if error else "it keeps ending the stream"
        return ServerUnreachable(f"No hive server answers at {self.url}: {reason}.", address=self.url)

    def _not_hive(self, reason: str) -> ServerUnreachable:
        return ServerUnreachable(f"What answers at {self.url} is not hive: {reason}.", address=self.url)

    def _decode(self, call: Call[T], response: httpx2.Response) -> T:
        if not response.is_success:
            raise error_from(response.status_code, response.content)
        try:
            return msgspec.json.decode(response.content, type=call.reply)
        except msgspec.MsgspecError as error:
            raise self._not_hive(str(error)) from None

    def _check_stream(self, watch: Watch, response: httpx2.Response) -> bool:
        """Whether to read this answer to a watch. The body of one that is not a success must have been read.

        Raises:
            HiveError: what the server says, unless it is something that passes.
        """
        if response.status_code == 204:
            watch.over = True
            return False
        if response.status_code in PASSING_STATUSES:
            return False
        if not response.is_success:
            raise error_from(response.status_code, response.content)
        content_type = response.headers.get("content-type", "")
        if not content_type.startswith("text/event-stream"):
            raise self._not_hive(f"it sent {content_type or 'something without a type'} in place of a stream")
        watch.opened()
        return True

    def _delay_s(self, watch: Watch, error: Exception | None) -> float:
        """Seconds until the next connection of a watch.

        Raises:
            ServerUnreachable: when it has been without one for too long.
        """
        delay_s = watch.lost()
        if delay_s is None:
            raise self._unreachable(error)
        return delay_s


def server_url(address: str) -> str:
    """The base URL for `host:port` or a URL. An address that means "all of mine" to a server is this machine to a
    client.

    Raises:
        ValueError: when it is neither.
    """
    text = address if "://" in address else f"http://{address}"
    try:
        url = httpx2.URL(text)
    except httpx2.InvalidURL as error:
        raise ValueError(f"{address[:200]!r} is no address of a server: {error}.") from None
    if url.scheme not in ("http", "https") or not url.host or not 0 < (url.port or 80) < 65_536:
        raise ValueError(f"{address[:200]!r} is no address of a server. Write host:port, or an http(s) URL.")
    if url.host in ("0.0.0.0", "::"):  # noqa: S104 - recognised here, not bound to
        url = url.copy_with(host="127.0.0.1" if url.host == "0.0.0.0" else "::1")  # noqa: S104
    return str(url).rstrip("/")


def is_loopback(url: str) -> bool:
    """Whether this URL names this machine's loopback."""
    host = httpx2.URL(url).host
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def error_from(status: int, body: bytes) -> HiveError:
    """The error of hive.errors that a server sent: its class by the code, or HiveError with a code that this
    version does not know.
    """
    try:
        sent = msgspec.json.decode(body, type=ErrorReply).error
    except msgspec.MsgspecError:
        return _with_code(
            HiveError(f"The server answered with HTTP status {status} and no error of hive's."),
            f"HTTP_{status}",
            status,
        )
    known = {kind.code: kind for kind in reversed(all_errors())}
    kind = known.get(sent.code, HiveError)
    error = _with_code(kind(sent.message or None), sent.code, status)
    error.details = sent.details
    return error


def _with_code(error: HiveError, code: str, status: int) -> HiveError:
    # On the object, not in a new class: a subclass would join the tree that documentation and tests walk.
    vars(error).update(code=code, status=status)
    return error
