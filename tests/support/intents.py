"""Downloads in the intent log of a temporary store."""

from __future__ import annotations

import uuid
from pathlib import Path

import msgspec

from hive.downloads.context import DownloadContext
from hive.downloads.intents import Intent, IntentLog, intent_of
from hive.downloads.record import Record
from hive.settings import Settings
from hive.store.layout import INTENTS
from hive.wire.jobs import Request
from hive.wire.refs import dedup_key, parse_ref
from tests.support.downloads import new


def folder(settings: Settings) -> Path:
    (found,) = (settings.hive_dir / INTENTS).iterdir()
    return found


def an_intent(ref: str = "hf:org/model", **more: object) -> Intent:
    fields = {
        "id": str(uuid.uuid4()),
        "identity": dedup_key(parse_ref(ref)),
        "ref": ref,
        "request": Request(ref=ref, include=("*.gguf",), sha256=None, max_bytes_per_second=100_000),
        "created_ms": 1_795_000_000_000,
    }
    return msgspec.convert({**fields, **more}, Intent)


def started(downloads: DownloadContext, intents: IntentLog) -> Record:
    """A download as the HTTP process makes it."""
    key = dedup_key(parse_ref("hf:org/model"))
    download_id, _ = downloads.tracker.create(new(key, request=Request(ref="hf:org/model")))
    record = downloads.tracker.read(download_id)
    assert record is not None
    intents.write(intent_of(record))
    return record
