"""Text from elsewhere as a terminal may see it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hive.terminal import plain, plain_json, plain_lines


@given(st.text())
def test_nothing_but_printable_characters_is_left_of_a_line(text: str) -> None:
    assert plain(text).isprintable()
    assert len(plain(text)) == len(text)
    assert plain_lines(text).count("\n") == text.count("\n")


@given(st.text())
def test_json_means_the_same_and_is_printable(text: str) -> None:
    written = plain_json(json.dumps({text: [text]}, ensure_ascii=False))
    assert written.isprintable()
    assert json.loads(written) == {text: [text]}


@pytest.mark.parametrize("text", ["model-Q4_K_M.gguf", "Größe 中文 かな", "a\u0301"])
def test_letters_of_every_script_stay(text: str) -> None:
    assert plain(text) == text
    assert json.loads(plain_json(json.dumps(text, ensure_ascii=False))) == text
