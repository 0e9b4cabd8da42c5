"""requests on guarded connections: one Session for the fetches of a process.

Problem: requests makes its own pools, reads proxies, certificates, `.netrc` and cookies from where it finds them,
rewrites URLs (a signature is over the URL as it was given), follows redirects with the headers that it was given, and
reads a redirect's body to its end, however long it is. The easy way, setting each of these off at each call, misses
one. So the adapter gives out hive's own pools and nothing else, the session follows and keeps nothing, and a request is
prepared here, with the URL and the headers as they are.

An answer is read from `raw`, whose headers are urllib3's; what requests would make of an answer besides (cookies, an
encoding, a second dict of headers) is left out, since it takes as long as the request.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.cookies import RequestsCookieJar

from hive.net.urls import Url

#: Gives the urllib3 pool for a URL; raises UnsafeUrl.
Pools = Callable[[Url], urllib3.PoolManager]


class GuardedSession(requests.Session):
    """Asks for one URL, once. Safe from any thread."""

    def __init__(self, pools: Pools) -> None:
        super().__init__()
        self.trust_env = False
        self.cookies = _NoCookies()
        adapter = GuardedAdapter(pools)
        for scheme in ("http://", "https://"):
            self.mount(scheme, adapter)

    def ask(self, url: Url, headers: Mapping[str, str], timeout: urllib3.Timeout) -> urllib3.BaseHTTPResponse:
        """The answer to a GET, its body unread.

        Raises:
            UnsafeUrl; whatever urllib3 and requests raise for a connection that fails.
        """
        request = _Get(url, headers)
        answer = self.send(request, stream=True, allow_redirects=False, timeout=timeout, proxies={})  # type: ignore[arg-type]
        raw: urllib3.BaseHTTPResponse = answer.raw
        return raw

    def get_redirect_target(self, resp: requests.Response) -> None:
        """None: redirects are followed by the transport, one request at a time, and it reads so much of their bodies as
        it wants.
        """
        return


class GuardedAdapter(HTTPAdapter):
    """Takes connections from hive's own pools: those have the proxy, the certificates and the check of addresses."""

    def __init__(self, pools: Pools) -> None:
        self._pools = pools
        # Not one try beyond the first, and errors as urllib3 raised them.
        super().__init__(pool_connections=0, pool_maxsize=0, max_retries=urllib3.Retry(False))

    def get_connection_with_tls_context(self, request: Any, *_: Any, **__: Any) -> Any:
        """The pool of the URL's host. Raises UnsafeUrl."""
        url: Url = request.parsed
        return self._pools(url).connection_from_host(url.host, url.port, url.scheme)

    def cert_verify(self, *_: Any, **__: Any) -> None:
        """Nothing: the pool's TLS context is complete."""

    def request_url(self, request: Any, proxies: Any) -> str:
        """What stands in the request line: the whole URL where a proxy is asked for it."""
        url: Url = request.parsed
        through_proxy = url.scheme == "http" and isinstance(self._pools(url), urllib3.ProxyManager)
        return str(url) if through_proxy else url.target

    def build_response(self, req: requests.PreparedRequest, resp: Any) -> requests.Response:
        """The answer, of which only `raw` and the status are read."""
        answer = requests.Response()
        answer.raw, answer.status_code, answer.request = resp, resp.status, req
        return answer


class _Get(requests.PreparedRequest):
    """A GET as it goes out: nothing of the URL or the headers is prepared again."""

    def __init__(self, url: Url, headers: Mapping[str, str]) -> None:
        super().__init__()
        self.parsed = url
        self.method, self.url = "GET", str(url)
        self.headers = headers  # type: ignore[assignment]


class _NoCookies(RequestsCookieJar):
    """Keeps no cookie, and so sends none."""

    def extract_cookies(self, *_: Any) -> None:
        """Nothing."""
