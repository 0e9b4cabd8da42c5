"""Where a server is, how it is reached, and what its answers mean: everything of a client that does no I/O.

`Client` and `AsyncClient` hold a `Connection` and only carry over the wire what it says.
"""

from __future__ import annotations

import os
import ssl
from ipaddress import ip_address
from typing import Any, Final, TypeVar

import httpx2
import msgspec

from hive.client.api_key import has_key, key_from_env
from hive.client.calls import HEALTH, Call
from hive.client.watch import PATIENCE_S, Watch
from hive.error_codes import by_code
from hive.errors import HiveError, MissingApiKey, ServerUnreachable, TooManyRequests
from hive.net.proxies import Proxies
from hive.net.retry_after import parse_retry_after
from hive.net.server_address import parse_server_address
from hive.net.tls import Trust
from hive.version import VERSION
from hive.wire.api import ErrorReply
from hive.wire.proof import is_proof

T = TypeVar("T")

#: Where a server listens when nobody says otherwise.
DEFAULT_URL: Final = "http://127.0.0.1:8080"
_PORTS: Final = {"http": 80, "https": 443}
#: Seconds for a connection, and for writing a request.
CONNECT_TIMEOUT_S: Final = 5.0
#: Seconds without a byte. The server sends a keep-alive every 10 s, so three were missed; the library's 5 s would cut
#: each quiet stream.
READ_TIMEOUT_S: Final = 30.0
#: Seconds that a call waits in all when the server says that its key asks too often.
MAX_RATE_WAIT_S: Final = 60.0
#: Why a request is not sent where the server does not prove what it should.
UNPROVEN: Final = "another server than before answers, and is not sent the key"
#: HTTP statuses that a watch takes for "not now": what stands in front of a server says them while it restarts.
PASSING_STATUSES: Final = frozenset({408, 425, 429, 500, 502, 503, 504})


class Connection:
    """Where the server is, how to reach it, and what its answers mean.

    `address` is `host:port` or a URL; `patience_s` the seconds without a connection after which a watch gives up.
    `api_key` None: the one of the environment that is for this server (api_key.py). Raises ValueError where the address
    is none, or the environment's key cannot be used.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        patience_s: float = PATIENCE_S,
        read_timeout_s: float = READ_TIMEOUT_S,
        api_key: str | None = None,
    ) -> None:
        self._url = server_url(address or DEFAULT_URL)
        key = key_from_env(address) if api_key is None else api_key
        if key and httpx2.URL(self._url).userinfo:
            raise ValueError("An API key and a name with a password in the address use the same header: give only one.")
        #: Whether requests carry an API key.
        self.has_key = bool(key)
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        #: Whether the environment has a key for another server.
        self._withheld = not key and api_key is None and has_key()
        #: The server's address as it was given.
        self.address = address
        #: The server's address as it may be shown: without a password.
        self.url = str(httpx2.URL(self._url).copy_with(username=None, password=None)).rstrip("/")
        self.patience_s = patience_s
        self._read_timeout_s = read_timeout_s

    def options(self) -> dict[str, Any]:
        """What httpx2's clients are made with."""
        return {
            "base_url": self._url,
            "timeout": httpx2.Timeout(CONNECT_TIMEOUT_S, read=self._read_timeout_s),
            "headers": {"User-Agent": f"hive/{VERSION}", "Accept": "application/json", **self._headers},
            "trust_env": False,  # it reads proxies otherwise than hive does everywhere
            "proxy": self._proxy(),
            "verify": self._tls(),
        }

    def _proxy(self) -> httpx2.Proxy | None:
        """The proxy of the environment to the server; None to this machine's own loopback, to which it has no way.

        Raises:
            ValueError: what is named is none. TlsRefused: see below.
        """
        if is_loopback(self._url):
            return None
        url = httpx2.URL(self._url)
        found = Proxies.from_env(os.environ).find(url.scheme, url.host, url.port or _PORTS[url.scheme])
        if found is None:
            return None
        context = Trust.from_env(os.environ).context() if found.scheme == "https" else None
        auth = None if found.username is None else (found.username, found.password)
        return httpx2.Proxy(found.url, ssl_context=context, auth=auth)

    def _tls(self) -> ssl.SSLContext:
        """Whom to trust: as hive does everywhere, on the loopback too, where a proxy may have a company's certificate.

        Raises:
            TlsRefused: a variable of the environment names no certificate.
        """
        if self._url.startswith("https:"):
            return Trust.from_env(os.environ).context()
        # Loading the certificate authorities takes 40 ms, and plain HTTP has no use for them. This one trusts none.
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

    def error(self, status: int, body: bytes) -> HiveError:
        """The error that the server sent; where it wants a key that was kept from it, the reason."""
        error = error_from(status, body)
        if self._withheld and isinstance(error, MissingApiKey):
            error.message += f" That of the environment goes to the server in HIVE_HOST alone, not to {self.url}."
            error.args = (error.message,)
        return error

    def unreachable(self, error: Exception | None) -> ServerUnreachable:
        """No server answers; `error` is what the last try failed with, None where a stream kept ending."""
        reason = (str(error) or type(error).__name__) if error else "it keeps ending the stream"
        return ServerUnreachable(f"No hive server answers at {self.url}: {reason}.", address=self.url)

    def not_hive(self, reason: str) -> ServerUnreachable:
        """Something answers that is none of ours."""
        return ServerUnreachable(f"What answers at {self.url} is not hive: {reason}.", address=self.url)

    def asked_wait_s(self, response: httpx2.Response, waited_s: float) -> float | None:
        """Seconds after which to ask again, where the server says that this client asks too often and it has not
        `waited_s` for too long; None for any other answer.
        """
        if response.status_code != TooManyRequests.status:
            return None
        if self.error(response.status_code, response.content).code != TooManyRequests.code:
            return None
        wait_s = max(parse_retry_after(response.headers.get("retry-after")) or 1.0, 0.0)
        return wait_s if waited_s + wait_s <= MAX_RATE_WAIT_S else None

    def decode(self, call: Call[T], response: httpx2.Response) -> T:
        """The answer to a call.

        Raises:
            HiveError: what the server says.
            ServerUnreachable: what answers is not hive.
        """
        if not response.is_success:
            raise self.error(response.status_code, response.content)
        try:
            return msgspec.json.decode(response.content, type=call.reply)
        except msgspec.MsgspecError as error:
            raise self.not_hive(str(error)) from None

    def is_proven(self, response: httpx2.Response, key: bytes, nonce: str) -> bool:
        """Whether this answer to `calls.health(nonce)` proves that the server has `key`, and is the one connected to.

        Raises:
            HiveError: what the server says.
            ServerUnreachable: what answers is not hive.
        """
        found = self.decode(HEALTH, response).proof
        stream = response.extensions.get("network_stream")
        try:
            peer = stream.get_extra_info("server_addr") if stream is not None else None
        except OSError:
            return False  # it has closed the connection already, as no hive does
        if not peer or not isinstance(found, str):
            return False
        return is_proof(found, key, nonce, str(peer[0]), int(peer[1]))

    def check_stream(self, watch: Watch, response: httpx2.Response) -> bool:
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
            raise self.error(response.status_code, response.content)
        content_type = response.headers.get("content-type", "")
        if not content_type.startswith("text/event-stream"):
            raise self.not_hive(f"it sent {content_type or 'something without a type'} in place of a stream")
        watch.opened()
        return True

    def delay_s(self, watch: Watch, error: Exception | None) -> float:
        """Seconds until the next connection of a watch.

        Raises:
            ServerUnreachable: when it has been without one for too long.
        """
        delay_s = watch.lost()
        if delay_s is None:
            raise self.unreachable(error)
        return delay_s


def server_url(address: str) -> str:
    """The base URL for `host`, `host:port` or a URL. An address that means "all of mine" to a server is this machine to
    a client.

    Raises:
        ValueError: when it is none of these.
    """
    try:
        found = parse_server_address(address)
        if not 0 < found.port < 65_536:
            raise ValueError(f"{address[:200]!r} is no address of a server: there is no port {found.port}.")
        return str(httpx2.URL(found.url)).rstrip("/")
    except httpx2.InvalidURL as error:
        raise ValueError(f"{address[:200]!r} is no address of a server: {error}.") from None


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
    kind = by_code().get(sent.code, HiveError)
    error = _with_code(kind(sent.message or None), sent.code, status)
    error.details = sent.details
    return error


def _with_code(error: HiveError, code: str, status: int) -> HiveError:
    # On the object, not in a new class: a subclass would join the tree that documentation and tests walk.
    vars(error).update(code=code, status=status)
    return error
