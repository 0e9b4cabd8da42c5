"""A client that sees what a library hides: how much of a body came, and how the connection ended."""

import http.client
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

#: Seconds without a byte after which a probe gives up.
PROBE_TIMEOUT_S = 60.0

#: Most bytes read at once.
READ_BYTES = 1 << 20


@dataclass
class Answer:
    """What came: names of headers in lower case, and the monotonic second at which each piece of the body arrived."""

    status: int
    headers: dict[str, str]
    body: bytes
    #: "complete", "short" (closed in good order, too early), "reset", or "silent" (nothing for the time-out).
    ending: Literal["complete", "short", "reset", "silent"]
    at_s: list[float] = field(default_factory=list)


def probe(
    url: str, method: str = "GET", headers: Mapping[str, str] | None = None, *, timeout_s: float = PROBE_TIMEOUT_S
) -> Answer:
    """One request on a connection of its own; redirects are not followed.

    The status is 0 where no answer began. Raises OSError when there is no connection.
    """
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout_s)
    target = f"{parts.path}?{parts.query}" if parts.query else parts.path
    answer = Answer(0, {}, b"", "complete")
    connection.connect()
    try:
        connection.request(method, target, headers=dict(headers or {}))
        with connection.getresponse() as response:
            answer.status = response.status
            answer.headers = {name.lower(): value for name, value in response.getheaders()}
            _read(response, answer)
    except http.client.RemoteDisconnected:
        answer.ending = "short"
    except (ConnectionResetError, BrokenPipeError):
        answer.ending = "reset"
    except TimeoutError:
        answer.ending = "silent"
    finally:
        connection.close()
    return answer


def _read(response: http.client.HTTPResponse, answer: Answer) -> None:
    """Read the body piece by piece, so that what came before a failure is kept."""
    received = bytearray()
    try:
        while piece := response.read1(READ_BYTES):
            received += piece
            answer.at_s.append(time.monotonic())
        if response.length:
            answer.ending = "short"
    finally:
        answer.body = bytes(received)
