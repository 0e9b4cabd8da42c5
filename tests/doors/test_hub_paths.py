"""Addresses of the Hub: what is one, and what goes no further."""

from __future__ import annotations

import pytest

from hive.doors.hub_paths import HubPath, read_info_path, read_resolve_path, why_not


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        (b"/org/name/resolve/main/a.gguf", ("org/name", "main", "a.gguf")),
        (b"/org/name/resolve/refs%2Fpr%2F1/sub/a.gguf", ("org/name", "refs/pr/1", "sub/a.gguf")),
        (b"/org/name/resolve/refs/pr/1/sub/a.gguf", ("org/name", "refs/pr/1", "sub/a.gguf")),
        (b"/org/name/resolve/main/sub%2Fa%20b.gguf", ("org/name", "main", "sub/a b.gguf")),
        (b"/datasets/org/name/resolve/refs%2Fpr%2F1/a.csv", ("datasets/org/name", "refs/pr/1", "a.csv")),
        (b"/spaces/org/name/resolve/main/app.py", ("spaces/org/name", "main", "app.py")),
        (b"/datasets/squad/resolve/main/a", ("datasets/squad", "main", "a")),
        (b"/gpt2/resolve/main/config.json", ("gpt2", "main", "config.json")),
        (b"/org/name/resolve/main/%C3%A4.bin", ("org/name", "main", "ä.bin")),
    ],
)
def test_a_file_is_read_from_the_raw_path(raw: bytes, found: tuple[str, str, str]) -> None:
    assert read_resolve_path(raw) == HubPath(found[0], "resolve", found[1], found[2])


@pytest.mark.parametrize(
    "raw",
    [
        b"/org/name/resolve/main/../../etc/passwd",
        b"/org/name/resolve/main/%2e%2e/%2e%2e/etc/passwd",
        b"/org/name/resolve/main/a/..%2f..%2fb",
        b"/org/name/resolve/main/%00",
        b"/org/name/resolve/main/a%0Ab",
        b"/org/name/resolve/main//etc/passwd",
        b"/org/name/resolve/main/%2fetc/passwd",
        b"/org/name/resolve/main/a%5Cb",
        b"/org/name/resolve/main/.git/config",
        b"/org/name/resolve/main/%ff%fe",
        b"/org/name/resolve/main/" + b"a" * 300,
        b"/org/name/resolve/main/" + b"a/" * 3000 + b"a",
        b"/org/name/resolve/..%2f..%2fx/a",
        b"/org/name/resolve/main/",
        b"/org/name/resolve/main",
        b"/../name/resolve/main/a",
        b"/org%2F..%2Fx/name/resolve/main/a",
        b"/or--g/name/resolve/main/a",
        b"/v1/name/resolve/main/a",
        b"/api/name/resolve/main/a",
        b"/Spaces/name/resolve/main/a",
        b"/datasets/datasets/name/resolve/main/a",
        b"/datasets%2Forg/name/resolve/main/a",
        b"/datasets/../name/resolve/main/a",
    ],
)
def test_what_is_no_file_of_a_model_goes_no_further(raw: bytes) -> None:
    assert read_resolve_path(raw) is None


def test_what_is_asked_of_a_model_is_read_from_the_raw_path() -> None:
    assert read_info_path(b"/api/models/org/name") == HubPath("org/name", "", "", "")
    assert read_info_path(b"/api/models/org/name/refs") == HubPath("org/name", "refs", "", "")
    assert read_info_path(b"/api/models/org/name/revision/refs%2Fpr%2F1") == HubPath(
        "org/name", "revision", "refs/pr/1", ""
    )
    assert read_info_path(b"/api/models/org/name/tree/main/sub") == HubPath("org/name", "tree", "main", "sub")
    assert read_info_path(b"/api/datasets/org/name/refs") == HubPath("datasets/org/name", "refs", "", "")
    assert read_info_path(b"/api/models/org/name/commits/main") == HubPath("org/name", "commits", "main", "")
    assert read_info_path(b"/api/models/org/name/auth-check") == HubPath("org/name", "auth-check", "", "")
    assert read_info_path(b"/api/models/datasets/name") is None
    assert read_info_path(b"/api/models/org/name/tree/main/%2e%2e") is None
    assert read_info_path(b"/api/models/org/name/settings") is None
    assert read_info_path(b"/api/models/org%00/name") is None


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"/api/models/org/name/revision/a%20b", "RevisionNotFound"),
        (b"/api/datasets/org/name/tree/a..b/sub", "RevisionNotFound"),
        (b"/org/name/resolve/refs%252Fpr%252F1/config.json", "RevisionNotFound"),
        (b"/org/name/resolve/main/%2e%2e/a", "EntryNotFound"),
        (b"/api/models/org/name/tree/main/%2e%2e", "EntryNotFound"),
        (b"/api/models/%2e%2e/%2e%2e", "EntryNotFound"),
        (b"/api/models/org/name/discussions", "NotMirrored"),
        (b"/api/models", "NotMirrored"),
    ],
)
def test_what_is_no_address_is_told_by_the_code_that_clients_look_for(raw: bytes, code: str) -> None:
    assert why_not(raw) == code
