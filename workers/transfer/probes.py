"""A probe: what a server says of a file, from its first bytes, without a download.

Problem: HEAD says the size, and stores that sign a URL for GET refuse it, as some servers do. So a GET asks for a range
of a few kilobytes, by the same way and under the same checks as the transfer that follows, and whatever more comes is
not read.
"""

from __future__ import annotations

import contextlib
import threading
from dataclasses import replace
from typing import Final, NamedTuple

from hive.errors import Cancelled
from hive.net.egress import Network
from workers.transfer.control import Control
from workers.transfer.http.pool import HostPool
from workers.transfer.http.response import HttpStream
from workers.transfer.http.transport import HttpTransport
from workers.transfer.limits import Limits
from workers.transfer.source import INSPECTED_BYTES, Served, Source
from workers.transfer.transport import (
    ContentChanged,
    Declined,
    ExpectedContent,
    RangesRefused,
    Throttled,
    Transient,
)

#: Seconds for all of it, and for the head of one answer.
PROBE_S: Final = 15.0
PROBE_FIRST_BYTE_S: Final = 8.0


class Probe(NamedTuple):
    """What a server says: the size in bytes (None where it does not say), and how it presents the file."""

    size: int | None
    served: Served


def probe(source: Source, network: Network, limits: Limits) -> Probe | None:
    """Ask once; None where the answer says nothing that lasts: no connection, a trouble of the server's, a rest.

    Raises:
        HiveError: what the download would end with: refused, not there, an unsafe address, not the file it should be.
    """
    quick = replace(limits, first_byte_s=PROBE_FIRST_BYTE_S, stall_s=PROBE_FIRST_BYTE_S)
    control = Control()
    timer = threading.Timer(PROBE_S, control.cancel)
    timer.daemon = True
    timer.start()
    try:
        with HostPool(network, quick) as pool, contextlib.closing(_opened(source, pool, quick, control)) as stream:
            if source.inspect is not None:
                source.inspect(stream.served, _head(stream))
            return Probe(stream.total, stream.served)
    except Declined as refusal:
        raise refusal.error from None
    except (Transient, Throttled, RangesRefused, ContentChanged, Cancelled):
        return None
    finally:
        timer.cancel()


def _opened(source: Source, pool: HostPool, limits: Limits, control: Control) -> HttpStream:
    transport = HttpTransport(source, pool, limits)
    try:
        return transport.open(0, INSPECTED_BYTES, ExpectedContent(), control)
    except RangesRefused:
        return transport.open(0, None, ExpectedContent(), control)


def _head(stream: HttpStream) -> bytes:
    head = b""
    for chunk in stream.chunks():
        head += chunk[: INSPECTED_BYTES - len(head)]
        if len(head) >= INSPECTED_BYTES:
            break
    return head
