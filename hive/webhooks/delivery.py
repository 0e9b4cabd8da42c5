"""One POST to a server outside, to an address that was checked, within a time that is kept.

Problem: a webhook's URL may come from a stranger, so it may lead into the own network, and its server may trickle. The
libraries resolve a name themselves after any check of ours could, and their time-outs count from byte to byte. So the
connection is one of hive.net.httpcore: to an address that was checked, and within what is left of the whole.

Redirects are not followed, and the answer's body is thrown away.
"""

from __future__ import annotations

import contextlib
import ssl
import time
from collections.abc import Mapping
from typing import NamedTuple

import httpcore2

from hive.net.egress import Network
from hive.net.failures import proxy_trouble
from hive.net.httpcore import FAILURES, pool
from hive.net.retry_after import parse_retry_after
from hive.net.urls import DEFAULT_PORTS, Url

#: Bytes of an answer's body that are taken before the connection is closed.
MAX_ANSWER_BYTES = 65_536


class DeliveryReply(NamedTuple):
    """What a server said: the status, and the seconds that it asks to wait (None where it does not)."""

    status: int
    retry_after_s: float | None


class Unanswered(OSError):
    """No answer came. The text is for people and holds neither the URL's path nor a password."""


def post(url: Url, body: bytes, headers: Mapping[str, str], network: Network, timeout_s: float) -> DeliveryReply:
    """Send the body; gives the answer, whatever its status. Blocks for `timeout_s` at most, but for the resolver.

    Raises:
        Unanswered: no connection, or no whole head of an answer in time.
        UnsafeUrl: the address is not one that may be connected to.
    """
    end_s = time.monotonic() + timeout_s
    port = None if url.port == DEFAULT_PORTS[url.scheme] else url.port
    target = httpcore2.URL(scheme=url.scheme, host=url.host, port=port, target=url.target)
    waits = dict.fromkeys(("connect", "read", "write", "pool"), timeout_s)
    extensions = {"timeout": waits, "sni_hostname": url.host.strip("[]")}
    try:
        with (
            _pool(url, network, end_s) as made,
            made.stream("POST", target, headers=list(headers.items()), content=body, extensions=extensions) as answer,
        ):
            _throw_away(answer)
            said = {name.lower(): value for name, value in answer.headers}.get(b"retry-after", b"")
            return DeliveryReply(answer.status, parse_retry_after(said.decode("latin-1")))
    except FAILURES as error:
        trouble = proxy_trouble(error, url.host, network.proxy_for(url))
        raise Unanswered(trouble or _reason(error, timeout_s)) from None


def _pool(url: Url, network: Network, end_s: float) -> httpcore2.ConnectionPool:
    """One connection, straight or by the proxy."""
    proxy = network.proxy_for(url)
    if proxy is not None:
        network.check_proxied(url.host.strip("[]"), url.port)
    return pool(network, url.scheme, proxy, lambda: end_s, connections=1)


def _throw_away(answer: httpcore2.Response) -> None:
    """Take a body of reasonable length, so that an honest server is not cut off; its status is known already."""
    received = 0
    with contextlib.suppress(*FAILURES):
        for chunk in answer.iter_stream():
            received += len(chunk)
            if received > MAX_ANSWER_BYTES:
                return


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
