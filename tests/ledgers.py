"""A ledger in the temporary store, and downloads in it. The fixtures are imported under their functions' names."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from hive.ledger import Entry, Ledger, entry_of
from hive.record import Record
from hive.restoring import Restorer
from hive.settings import Settings
from hive.tracker import DownloadTracker
from hive.wire.jobs import Request
from hive.wire.layout import LEDGER
from hive.wire.refs import identity, parse_ref
from tests.makers import new


@pytest.fixture(name="ledger")
def ledger_fixture(settings: Settings) -> Ledger:
    return Ledger(settings)


@pytest.fixture(name="restorer")
def restorer_fixture(settings: Settings, redis_url: str, ledger: Ledger) -> Iterator[Restorer]:
    made = Restorer(settings, redis_url, ledger)
    yield made
    made.stop()


def folder(settings: Settings) -> Path:
    (found,) = (settings.hive_dir / LEDGER).iterdir()
    return found


def an_entry(ref: str = "hf:org/model", **more: object) -> Entry:
    fields = {
        "id": str(uuid.uuid4()),
        "identity": identity(parse_ref(ref)),
        "ref": ref,
        "request": Request(ref=ref, include=("*.gguf",), sha256=None, max_bytes_per_second=100_000),
        "created_ms": 1_795_000_000_000,
    }
    return msgspec.convert({**fields, **more}, Entry)


def started(tracker: DownloadTracker, ledger: Ledger) -> Record:
    """A download as the HTTP process makes it."""
    key = identity(parse_ref("hf:org/model"))
    download_id, _ = tracker.create(new(key, request=Request(ref="hf:org/model")))
    record = tracker.read(download_id)
    assert record is not None
    ledger.write(entry_of(record))
    return record
