"""JSON of text that is no Unicode, such as names of files that somebody else has put there."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hive.wire.api import Listing, Model
from hive.wire.encoding import encode_json
from hive.wire.events import Complete, Error

#: Every character that a Python string can hold, lone surrogates too.
ANY_TEXT = st.text(st.characters(exclude_categories=()))
ANYTHING: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 63) - 1) | ANY_TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(ANY_TEXT, inner),
    max_leaves=20,
)


@given(ANYTHING)
def test_everything_is_encoded_as_valid_utf_8(value: Any) -> None:
    assert type(json.loads(encode_json(value).decode("utf-8", "strict"))) is type(value)


@given(st.text())
def test_what_is_unicode_is_left_as_it_is(text: str) -> None:
    assert encode_json([text]) == msgspec.json.encode([text])


@pytest.mark.parametrize(
    "value",
    [
        Complete(local_path="/store/\udcff.gguf"),
        Error(message="\ud800", details={"\udc80": ["\udcff"]}),
        Listing[Model](data=(Model(id="org/name:\udcff", refs=("\udcfe",)),)),
        {"progress": msgspec.Raw(b'{"stage":"complete"}'), "path": "\udcff"},
    ],
)
def test_records_keep_their_form(value: Any) -> None:
    found = json.loads(encode_json(value))
    assert "\ufffd" in json.dumps(found, ensure_ascii=False)
    if not isinstance(value, dict):
        msgspec.json.decode(encode_json(value), type=type(value))
    else:
        assert found["progress"] == {"stage": "complete"}
