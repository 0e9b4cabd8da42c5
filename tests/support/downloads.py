"""Small things that tests make again and again."""

from __future__ import annotations

import time
from typing import Any

import msgspec

from hive.downloads.context import DownloadContext
from hive.downloads.record import Claim, New, Record
from hive.redis.client import RedisClient
from hive.settings import Settings
from hive.wire.events import ActiveStatus, Complete, Downloading, Error
from hive.wire.jobs import Request


def downloading(done: int = 0, total: int = 100, status: ActiveStatus = "downloading", **extra: object) -> Downloading:
    return Downloading(bytes_downloaded=done, bytes_total=total, speed_mbps=0.0, status=status, **extra)  # type: ignore[arg-type]


def complete(path: str = "/store/model.gguf") -> Complete:
    return Complete(local_path=path, status="complete")


def failed(code: str = "DOWNLOAD_FAILED") -> Error:
    return Error(message="It did not work.", code=code, status="failed")


def new(dedup_key: str = "model-a", **extra: object) -> New:
    return New(
        **{  # type: ignore[arg-type]
            "dedup_key": dedup_key,
            "ref": f"hf:org/{dedup_key}",
            "request": Request(ref=f"hf:org/{dedup_key}"),
            "event": downloading(0, 0, "queued"),
            **extra,
        }
    )


def create(downloads: DownloadContext, dedup_key: str = "model-a") -> str:
    """The id of a new, queued download."""
    return downloads.tracker.create(new(dedup_key))[0]


def claim(downloads: DownloadContext, download_id: str, owner: str = "owner") -> Claim:
    """A worker's hold on it."""
    record = downloads.tracker.read(download_id)
    assert record is not None
    held = downloads.claims.claim(record, owner, f"worker of {owner}", downloading(status="resolving"))
    assert held is not None
    return held


def download_context(
    client: RedisClient, *, ended_ttl_s: int = 3600, max_queued: int = 100, lease_s: float = 6.0, **more: Any
) -> DownloadContext:
    """Everything that changes downloads, over this client and with these settings, which may be out of their bounds."""
    chosen = {"ended_ttl_s": ended_ttl_s, "max_queued": max_queued, "lease_s": lease_s, **more}
    return DownloadContext.of(client, msgspec.structs.replace(Settings.from_env({}), **chosen))


def read(downloads: DownloadContext, download_id: str) -> Record:
    """The record of a download that is there."""
    record = downloads.tracker.read(download_id)
    assert record is not None
    return record


def next_millisecond() -> None:
    """Wait until another one has begun: what was made in one is in no order."""
    now_ms = time.time_ns() // 10**6
    while time.time_ns() // 10**6 == now_ms:
        pass
