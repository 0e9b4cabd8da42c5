"""A store in which others have left names that are no Unicode: everything is told all the same."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import requests

from hive.settings import Settings
from tests.support.openapi import check_answer, operation_at
from tests.support.store import WHOLE, put, put_tree

#: Names as old systems, archives and broken downloads leave them.
STRAY = (b"\xff\xfe.gguf", b"caf\xe9.safetensors", b"\xed\xa0\x80.gguf", b"x\xc3(.bin")


@pytest.fixture
def strewn(settings: Settings) -> Settings:
    """A model with such files beside its own, and rubbish of every place."""
    snapshot = put(settings, "org/model", WHOLE)
    put_tree(settings, "org/model", WHOLE)
    repo = snapshot.parent.parent
    partials = settings.hive_dir / "partial"
    partials.mkdir(parents=True, exist_ok=True)
    for name in STRAY:
        leave(snapshot, name)
        leave(snapshot, b"folder-" + name + b"/inside.gguf")
        leave(repo / "refs", name)
        leave(repo / "blobs", name + b".incomplete")
        leave(repo / "trees", name + b".json")
        leave(partials, name + b".part")
        leave(settings.hub_dir, b"models--org--" + name + b"/snapshots/" + b"a" * 40 + b"/m.gguf")
        leave(settings.hive_dir / "files", name + b"/manifest.json")
    return settings


def leave(folder: Path, name: bytes) -> None:
    path = os.path.join(os.fsencode(folder), name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(b"GGUF")
    os.utime(path, (1, 1))


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/v1/models", None),
        ("GET", "/v1/models/org/model", None),
        ("GET", "/v1/models/org/%FF%FE", None),
        ("POST", "/v1/models/plan", {"model_ref": "org/model"}),
        ("POST", "/v1/models/download", {"model_ref": "org/model"}),
        ("POST", "/v1/models/verify", {}),
        ("POST", "/v1/models/verify", {"models": ["org/model"]}),
        ("POST", "/v1/gc", {"dry_run": True}),
        ("POST", "/v1/gc", {"older_than_seconds": 0}),
        ("DELETE", "/v1/models/org/model", None),
        ("GET", "/metrics", None),
    ],
)
def test_every_route_that_looks_at_the_disk_answers(
    api: str, strewn: Settings, method: str, path: str, body: object
) -> None:
    answer = requests.request(method, api + path, json=body, timeout=60)
    assert answer.status_code != 500, answer.text
    check_answer(operation_at(method, path), answer.status_code, answer.headers["content-type"], answer.text)
    if answer.headers["content-type"] == "application/x-ndjson":
        assert json.loads(answer.text.strip().splitlines()[-1])["event"] == "end", answer.text
