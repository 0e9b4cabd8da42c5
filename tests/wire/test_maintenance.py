"""The words of verification and collection: each is documented, and none means two things."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import msgspec
import pytest

from hive.wire import maintenance
from hive.wire.api import CollectRequest, VerifyRequest
from hive.wire.maintenance import Collected, CollectionLine, Kept, Problem, Removed, VerificationLine, Verified

API = (Path(__file__).parent.parent.parent / "docs" / "api.md").read_text()

LINES = sorted({*get_args(VerificationLine), *get_args(CollectionLine)}, key=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", [*get_args(maintenance.ProblemKind), *get_args(maintenance.GarbageKind)])
def test_every_kind_is_documented(kind: str) -> None:
    assert f"`{kind}`" in API


@pytest.mark.parametrize("struct", [*LINES, CollectRequest, VerifyRequest], ids=lambda kind: kind.__name__)
def test_every_field_is_documented(struct: type[msgspec.Struct]) -> None:
    for field in msgspec.structs.fields(struct):
        assert f"`{field.encode_name}`" in API or f'"{field.encode_name}"' in API, field.encode_name


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (Problem("org/name@c", "a", "missing", "Gone."), VerificationLine),
        (Verified(models=1, files=2, bytes=3, problems=0), VerificationLine),
        (Removed(kind="blob", path="hub/x", bytes=1), CollectionLine),
        (Kept(kind="blob", path="hub/x", message="It is in use.", in_use=True), CollectionLine),
        (Collected(dry_run=True, removed=0, bytes=0), CollectionLine),
    ],
)
def test_a_line_comes_back_as_what_it_was(line: msgspec.Struct, kind: object) -> None:
    encoded = msgspec.json.encode(line)
    assert b"\n" not in encoded
    assert msgspec.json.decode(encoded, type=kind) == line
