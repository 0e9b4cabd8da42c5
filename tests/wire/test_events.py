"""The progress vocabulary: three stages and nothing else, on one line."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hive.wire.events import (
    MAX_MESSAGE_CHARS,
    TERMINAL_STAGES,
    Complete,
    Downloading,
    Error,
    Event,
    FileProgress,
    Version,
    decode,
    encode,
    is_terminal,
    parse_message,
    shorten,
)

COUNTS = st.integers(min_value=0, max_value=1 << 60)
EVENTS = st.one_of(
    st.builds(
        Downloading,
        bytes_downloaded=COUNTS,
        bytes_total=COUNTS,
        speed_mbps=st.floats(min_value=0, max_value=1e6),
        status=st.sampled_from([None, "queued", "resolving", "downloading", "verifying", "paused", "retrying"]),
        message=st.none() | st.text(),
        files=st.lists(st.builds(FileProgress, st.text(), COUNTS, COUNTS), max_size=3).map(tuple),
    ),
    st.builds(Complete, local_path=st.text(), seconds=st.none() | st.floats(min_value=0, max_value=1e9)),
    st.builds(
        Error,
        message=st.text(),
        code=st.none() | st.just("DOWNLOAD_FAILED"),
        details=st.none() | st.dictionaries(st.text(), st.text() | COUNTS),
    ),
)


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (
            Downloading(bytes_downloaded=1048576, bytes_total=5242880, speed_mbps=45.2),
            b'{"stage":"downloading","bytes_downloaded":1048576,"bytes_total":5242880,"speed_mbps":45.2}',
        ),
        (
            Complete(local_path="/models/tinyllama-q4.gguf"),
            b'{"stage":"complete","local_path":"/models/tinyllama-q4.gguf"}',
        ),
        (Error(message="It failed."), b'{"stage":"error","message":"It failed."}'),
    ],
)
def test_the_three_stages_are_written_as_clients_of_the_original_read_them(event: Event, line: bytes) -> None:
    assert encode(event) == line
    assert decode(line) == event


@given(EVENTS)
def test_an_event_is_one_line_and_read_back_the_same(event: Event) -> None:
    line = encode(event)

    assert b"\n" not in line
    assert b"\r" not in line
    assert decode(line) == event
    assert is_terminal(event) == (json.loads(line)["stage"] in TERMINAL_STAGES)


@pytest.mark.parametrize(
    "data",
    [
        b'{"stage":"queued"}',
        b'{"stage":"downloading"}',
        b'{"stage":"complete"}',
        b'{"stage":"downloading","bytes_downloaded":1,"bytes_total":2,"speed_mbps":1,"status":"flying"}',
        b"{}",
        b"[DONE]",
        b"",
    ],
)
def test_a_fourth_stage_or_status_does_not_exist(data: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode(data)


def test_a_field_that_a_newer_version_adds_is_passed_over() -> None:
    assert decode(b'{"stage":"complete","local_path":"/m","new":1}') == Complete(local_path="/m")


@given(st.integers(0, 10**18), st.integers(0, 10**18))
def test_a_version_is_read_back(fence: int, seq: int) -> None:
    assert Version.parse(str(Version(fence, seq))) == Version(fence, seq)


@pytest.mark.parametrize(
    "text", ["", "-", "1", "1-", "-1", "1-2-3", "a-b", "1 -2", "\u0661-2", "\u00b2-1", "9" * 40 + "-1"]
)
def test_a_strangers_version_is_none(text: str) -> None:
    assert Version.parse(text) is None


def test_a_later_fence_goes_before_any_count() -> None:
    assert Version(2, 0) > Version(1, 999)
    assert Version(2, 1) > Version(2, 0)


@given(EVENTS, st.booleans())
def test_a_message_keeps_its_version_and_its_data(event: Event, terminal: bool) -> None:
    data = encode(event)

    message = parse_message(b"7-9 %d %b" % (terminal, data))

    assert message is not None
    assert (message.version, message.terminal, message.data) == (Version(7, 9), terminal, data)


@pytest.mark.parametrize("payload", [b"", b"7-9", b"7-9 0", b"7-9 2 {}", b"x 0 {}", b"\xff-1 0 {}", b"7-9  {}"])
def test_a_strangers_message_is_none(payload: bytes) -> None:
    assert parse_message(payload) is None


@given(st.text(max_size=3000))
def test_a_message_for_people_is_one_line_within_its_limit(text: str) -> None:
    short = shorten(text)

    assert len(short) <= MAX_MESSAGE_CHARS
    assert "\n" not in short
    assert shorten(short) == short


def test_a_long_message_says_that_it_was_cut() -> None:
    assert shorten("x" * 5000) == "x" * (MAX_MESSAGE_CHARS - 3) + "..."


def test_the_vocabulary_has_a_schema_with_exactly_three_members() -> None:
    schema: dict[str, Any] = msgspec.json.schema(Event)

    assert set(schema["discriminator"]["mapping"]) == {"downloading", "complete", "error"}
