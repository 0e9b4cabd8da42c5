"""Server-sent events frames: the one place that writes the wire format of
https://html.spec.whatwg.org/multipage/server-sent-events.html.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from hive.wire.events import Message

#: The end of a stream, after a terminal event, exactly once. A stream that ends without it means "reconnect".
DONE: Final = b"data: [DONE]\n\n"
#: A comment: keeps proxies and clients from taking silence for death.
KEEPALIVE: Final = b":\n\n"
#: The media type of a stream, which an EventSource accepts by name.
MEDIA_TYPE: Final = b"text/event-stream"
#: What every stream is served with. No charset: `text/event-stream` is UTF-8 by definition, and some clients compare
#: the bare type.
HEADERS: Final = [
    (b"content-type", MEDIA_TYPE),
    (b"cache-control", b"no-store, no-transform"),
    (b"x-accel-buffering", b"no"),
]
#: Milliseconds that an EventSource waits before it connects again.
RETRY_MS: Final = 2000


class StreamRequest(NamedTuple):
    """How a client asked for a stream."""

    #: Whether it reads `id:` and `retry:`. Others are sent bare `data:` frames: to clients that cut at the empty line
    #: and take what begins with `data: `, a line in front of it hides the event.
    with_ids: bool = True
    #: The last id that it has seen; None where it brings none.
    last_event_id: str | None = None


def read_stream_request(headers: Iterable[tuple[bytes, bytes]], query: Mapping[str, list[str]]) -> StreamRequest:
    """What the headers and the query of a request say: an EventSource names the media type in Accept, and whoever
    brings a Last-Event-ID, even an empty one, knows what an id is.
    """
    last_event_id: str | None = None
    with_ids = False
    for name, value in headers:
        if name == b"accept":
            with_ids = with_ids or MEDIA_TYPE in value.lower()
        elif name == b"last-event-id":
            last_event_id = value.decode("latin-1")
    if not last_event_id and "last_event_id" in query:
        last_event_id = query["last_event_id"][0]
    return StreamRequest(with_ids or last_event_id is not None, last_event_id or None)


def bare(message: Message) -> bytes:
    """One event as a `data:` line and nothing else: what clients understand that cut at the empty line and look at how
    each piece begins.
    """
    return b"data: %b\n\n" % one_line(message.data)


def frame(message: Message) -> bytes:
    """One event: its version as the id, its JSON as the data."""
    return b"id: %d-%d\ndata: %b\n\n" % (*message.version, one_line(message.data))


def bare_of_many(download_id: str, message: Message) -> bytes:
    """A bare frame of a stream for many downloads: the data says whose it is."""
    return b'data: {"download_id":"%b",%b\n\n' % (download_id.encode(), one_line(message.data)[1:])


def frame_of_many(download_id: str, message: Message) -> bytes:
    """A frame of a stream for many downloads: the event's name says whether it is the end, the id and the data say
    whose it is.
    """
    owner, name = download_id.encode(), b"end" if message.terminal else b"progress"
    return b"event: %b\nid: %b:%d-%d\n%b" % (name, owner, *message.version, bare_of_many(download_id, message))


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
    if not data:
        return b"0\r\n\r\n" if last else b""
    return b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data) if last else b"%x\r\n%b\r\n" % (len(data), data)
