"""Whatever text an event holds, it is one frame of the stream, and reads back the same."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hive.streams import sse
from hive.wire.events import Complete, Downloading, Error, FileProgress, Message, Version, encode
from tests.support.sse import parse_frames

#: Characters of one message when all of Unicode goes through.
CHUNK_CHARS = 1000
DOWNLOAD_ID = "00000000-0000-4000-8000-000000000000"
#: Every character that a Python string can hold, those that are no Unicode too.
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=80)
FORMS: dict[str, Callable[[Message], bytes]] = {
    "bare": sse.bare,
    "with an id": sse.frame,
    "bare, of many": lambda message: sse.bare_of_many(DOWNLOAD_ID, message),
    "of many": lambda message: sse.frame_of_many(DOWNLOAD_ID, message),
}

Form = Callable[[Message], bytes]


def data_of(frame: bytes) -> dict[str, object]:
    """The JSON of a frame, which must be one, of fields that are known, by the lines that the standard knows."""
    assert frame.endswith(b"\n\n")
    assert b"\r" not in frame
    lines = frame[:-2].split(b"\n")
    assert all(lines), "an empty line ends a frame"
    assert [line.partition(b":")[0] for line in lines] in ([b"data"], [b"id", b"data"], [b"event", b"id", b"data"])
    (found,) = parse_frames(frame)
    decoded: dict[str, object] = json.loads(lines[-1].removeprefix(b"data: "))
    assert found.data == lines[-1].removeprefix(b"data: ")
    return decoded


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_character_of_unicode_leaves_an_event_in_one_piece(form: Form) -> None:
    characters = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    for at in range(0, len(characters), CHUNK_CHARS):
        text = "".join(characters[at : at + CHUNK_CHARS])
        data = encode(Error(message=text, details={text: text}))
        assert data_of(form(Message(Version(1, 2), True, data)))["message"] == text


@settings(max_examples=300, derandomize=True)
@given(ANY_TEXT, ANY_TEXT, st.sampled_from(list(FORMS.values())))
def test_nothing_that_an_event_holds_makes_two_frames_of_it(one: str, other: str, form: Form) -> None:
    for event in (
        Error(message=one, code=other, details={one: [other, {other: one}]}),
        Complete(local_path=one, message=other),
        Downloading(
            bytes_downloaded=1, bytes_total=2, speed_mbps=0.5, name=one, message=other, files=(FileProgress(one, 1, 2),)
        ),
    ):
        found = data_of(form(Message(Version(1, 2), False, encode(event))))
        assert found["stage"] == event.__struct_config__.tag


@settings(max_examples=200, derandomize=True)
@given(st.text('\r\n \t{}":,ab', max_size=60), st.sampled_from(list(FORMS.values())))
def test_json_of_a_stranger_who_writes_to_redis_makes_no_frames_of_its_own(inside: str, form: Form) -> None:
    data = ('{"stage":\n"error",\r\n"message":' + json.dumps(inside) + "\n\n}\r\n").encode()
    assert data_of(form(Message(Version(1, 2), True, data)))["message"] == inside
