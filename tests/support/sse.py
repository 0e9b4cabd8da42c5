"""Server-sent events, read: the one parser of the tests, which takes nothing that a browser would silently ignore."""

from __future__ import annotations

from typing import NamedTuple


class Frame(NamedTuple):
    """What stood between two empty lines; a field that was not there is None."""

    id: str | None = None
    event: str | None = None
    data: bytes | None = None
    retry_ms: int | None = None
    comments: int = 0

    @property
    def is_done(self) -> bool:
        """Whether it is `data: [DONE]` and nothing else."""
        return self == Frame(data=b"[DONE]")

    @property
    def is_comment(self) -> bool:
        """Whether it is a keep-alive and nothing else."""
        return self == Frame(comments=self.comments) and self.comments > 0

    @property
    def version(self) -> tuple[int, ...]:
        """The numbers of its id."""
        return tuple(map(int, (self.id or "").split("-")))


def parse_frame(text: bytes) -> Frame:
    """A frame, without the empty line that ends it.

    Raises:
        ValueError: a line is no field of the standard, or a field is there twice.
    """
    fields: dict[str, bytes] = {}
    comments = 0
    for line in text.split(b"\n"):
        name, colon, value = line.partition(b":")
        if colon and not name:
            comments += 1
            continue
        field = name.decode("ascii", "replace")
        if not colon or field not in ("id", "event", "data", "retry") or field in fields:
            raise ValueError(f"no line of a frame: {line[:80]!r}")
        fields[field] = value.removeprefix(b" ")
    found_id, event, retry = fields.get("id"), fields.get("event"), fields.get("retry")
    return Frame(
        found_id.decode("latin-1") if found_id is not None else None,
        event.decode() if event is not None else None,
        fields.get("data"),
        int(retry) if retry is not None else None,
        comments,
    )


def parse_frames(body: bytes) -> list[Frame]:
    """The frames of a whole body."""
    *frames, rest = body.split(b"\n\n")
    if rest:
        raise ValueError(f"the body ends inside a frame: {rest[:80]!r}")
    return [parse_frame(frame) for frame in frames]
