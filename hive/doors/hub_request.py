"""One request to the Hub by the guarded way out, within a deadline and a bound on its bytes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final

import httpcore2

from hive import errors
from hive.net.addresses import hub_check
from hive.net.egress import Network
from hive.net.httpcore import FAILURES, pool
from hive.net.urls import DEFAULT_PORTS, Url, parse_url
from hive.settings import Settings

#: Seconds for one request to the Hub, of which a client has ten; and for its connection.
CALL_TIMEOUT_S: Final = 7.0
CONNECT_TIMEOUT_S: Final = 4.0
#: Bytes of an answer: a page of a thousand files has some 300 kB, a model with many files more.
MAX_ANSWER_BYTES: Final = 16 << 20


def ask(
    settings: Settings, method: str, address: str, headers: Mapping[str, str], body: bytes
) -> tuple[int, dict[str, str], bytes]:
    """The status, the headers (names in lower case) and the body of the answer. Blocks for `CALL_TIMEOUT_S` at most,
    but for the resolver.

    Raises:
        HubUnavailable: there was no answer, or one that is too long.
    """
    end_s = time.monotonic() + CALL_TIMEOUT_S
    waits = dict.fromkeys(("read", "write", "pool"), CALL_TIMEOUT_S) | {"connect": CONNECT_TIMEOUT_S}
    try:
        url = parse_url(address)
        port = None if url.port == DEFAULT_PORTS[url.scheme] else url.port
        target = httpcore2.URL(scheme=url.scheme, host=url.host, port=port, target=url.target)
        sent = [("Host", url.host if port is None else f"{url.host}:{port}"), *headers.items()]
        extensions = {"timeout": waits, "sni_hostname": url.host.strip("[]")}
        with (
            _pool(settings, url, end_s) as made,
            made.stream(method, target, headers=sent, content=body, extensions=extensions) as said,
        ):
            found = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in said.headers}
            return said.status, found, b"" if method == "HEAD" else _read(said)
    except (*FAILURES, errors.UnsafeUrl):
        raise errors.HubUnavailable from None


def _pool(settings: Settings, url: Url, end_s: float) -> httpcore2.ConnectionPool:
    network = Network(
        settings.proxies,
        settings.trust,
        settings.user_agent,
        hub_check(url.host, settings.allowed_hosts),
        settings.proxy_unresolved,
    )
    return pool(network, url.scheme, network.proxy_for(url), lambda: end_s, connections=1)


def _read(answer: httpcore2.Response) -> bytes:
    data = bytearray()
    for chunk in answer.iter_stream():
        data += chunk
        if len(data) > MAX_ANSWER_BYTES:
            raise OSError("the answer is too long")
    return bytes(data)
