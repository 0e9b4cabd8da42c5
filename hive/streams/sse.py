"""Server-sent events frames: the one place that writes the wire format of
https://html.spec.whatwg.org/multipage/server-sent-events.html.
"""

from __future__ import annotations

from typing import Final

from hive.wire.events import Message, Version

#: The end of a stream, after a terminal event, exactly once. A stream that ends without it means "reconnect".
DONE: Final = b"data: [DONE]\n\n"
#: A comment: keeps proxies and clients from taking silence for death.
KEEPALIVE: Final = b":\n\n"
#: What every stream is served with. No charset: `text/event-stream` is UTF-8 by definition, and some clients compare
#: the bare type.
HEADERS: Final = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store, no-transform"),
    (b"x-accel-buffering", b"no"),
]
#: Milliseconds that an EventSource waits before it connects again.
RETRY_MS: Final = 2000


def frame(message: Message) -> bytes:
    """One event: its version as the id, its JSON as the data."""
    return b"id: %d-%d\ndata: %b\n\n" % (*message.version, one_line(message.data))


def labelled(download_id: str, version: Version, single: bytes, *, terminal: bool) -> bytes:
    """The frame of a stream for many downloads, made from that of a stream for one: the event's name says whether it is
    the end, the id and the data say whose it is.
    """
    data = single.partition(b"data: ")[2].partition(b"\n")[0]
    owner, name = download_id.encode(), b"end" if terminal else b"progress"
    return b'event: %b\nid: %b:%d-%d\ndata: {"download_id":"%b",%b\n\n' % (name, owner, *version, owner, data[1:])


def retry(milliseconds: int) -> bytes:
    """Tells an EventSource how long to wait before it connects again."""
    return b"retry: %d\n\n" % milliseconds


def one_line(data: bytes) -> bytes:
    """The data without CR and LF, which would end the frame: JSON needs neither."""
    return data if b"\n" not in data and b"\r" not in data else data.replace(b"\r", b"").replace(b"\n", b"")


def chunk(data: bytes, *, last: bool = False) -> bytes:
    """The data as a chunk of an HTTP/1.1 body (RFC 9112, 7.1), with the end of the body behind it where it is the
    last.
    """
    return b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data) if last else b"%x\r\n%b\r\n" % (len(data), data)
