"""Small things that tests make again and again."""

from __future__ import annotations

from hive.downloads.record import Claim, New
from hive.downloads.tracker import DownloadTracker
from hive.wire.events import Complete, Downloading, Error, Status
from hive.wire.jobs import Request


def downloading(done: int = 0, total: int = 100, status: Status = "downloading", **extra: object) -> Downloading:
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


def create(tracker: DownloadTracker, dedup_key: str = "model-a") -> str:
    """The id of a new, queued download."""
    return tracker.create(new(dedup_key))[0]


def claim(tracker: DownloadTracker, download_id: str, owner: str = "owner") -> Claim:
    """A worker's hold on it."""
    record = tracker.read(download_id)
    assert record is not None
    held = tracker.claim(record, owner, f"worker of {owner}", downloading(status="resolving"))
    assert held is not None
    return held
