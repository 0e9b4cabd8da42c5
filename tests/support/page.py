"""What the page is shown: downloads drawn by hand into the records, as workers would write them, models on a disk."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hive.downloads.context import DownloadContext
from hive.downloads.record import Claim, New
from hive.processes.embedded_redis import EmbeddedRedis
from hive.redis.client import connect
from hive.settings import Settings
from hive.wire.events import Complete, Downloading, Error, FileProgress
from hive.wire.jobs import Request
from tests.support.downloads import download_context
from tests.support.processes import Server, environment
from tests.support.store import COMMIT

GB = 10**9
#: Names that somebody may give a model to break a page.
HOSTILE = (
    "evil/<img src=x onerror=alert(1)>",
    "evil/\"quotes\"-and-'others'",
    "evil/\u202egpj.exe\u202c-\u05e2\u05d1\u05e8\u05d9\u05ea",
    "evil/" + "n" * 300,
)


class Drawn:
    """Downloads whose every step is a call. Their leases last for longer than any test."""

    def __init__(self, downloads: DownloadContext) -> None:
        """`downloads`: over the Redis of the server that the page is of, with a lease of an hour."""
        self._downloads = downloads
        self._held: dict[str, Claim] = {}
        self._seq = 1

    def queued(self, name: str, total: int = 0, **extra: Any) -> str:
        """A download that waits."""
        event = Downloading(bytes_downloaded=0, bytes_total=total, speed_mbps=0.0, status="queued")
        ref = f"hf:{name}"
        made = New(dedup_key=name, ref=ref, request=Request(ref=ref), event=event, **extra)
        return self._downloads.tracker.create(made)[0]

    def running(self, name: str, share: float = 0.4, total: int = 5 * GB, rate: int = 90_000_000) -> str:
        """A download under way."""
        download_id = self.queued(name, total)
        self.claim(download_id)
        self.progress(download_id, int(total * share), total, rate)
        return download_id

    def claim(self, download_id: str) -> None:
        """A worker takes it."""
        record = self._downloads.tracker.read(download_id)
        assert record is not None
        event = Downloading(bytes_downloaded=0, bytes_total=0, speed_mbps=0.0, status="resolving")
        held = self._downloads.claims.claim(record, download_id, f"gpu-{len(self._held) + 1}.4711.9f3a", event)
        assert held is not None
        self._held[download_id] = held

    def progress(self, download_id: str, done: int, total: int, rate: int = 90_000_000, **extra: Any) -> None:
        """What its worker says next."""
        self._seq += 1
        event = Downloading(
            **{
                "bytes_downloaded": done,
                "bytes_total": total,
                "speed_mbps": rate / 1e6,
                "status": "downloading",
                "bytes_per_second": rate,
                "eta_seconds": (total - done) // max(rate, 1),
                "files_done": 0,
                "files_total": 2,
                "files": (FileProgress("model-00001-of-00002.safetensors", done, total),),
                **extra,
            }
        )
        self._downloads.claims.publish(self._held[download_id], self._seq, event)

    def complete(self, download_id: str, total: int = 5 * GB, path: str = "/models/hub/model.gguf") -> None:
        """It is there."""
        self._seq += 1
        end = Complete(local_path=path, status="complete", bytes_total=total, seconds=61.0, verified=True)
        self._downloads.claims.finish(self._held.pop(download_id), self._seq, "complete", end, path)

    def failed(self, name: str, code: str, message: str, **details: Any) -> str:
        """A download that has failed."""
        download_id = self.queued(name)
        self.claim(download_id)
        self._seq += 1
        end = Error(message=message, code=code, status="failed", details=details or None)
        self._downloads.claims.finish(self._held.pop(download_id), self._seq, "failed", end)
        return download_id

    def paused(self, name: str, share: float = 0.6, total: int = 3 * GB) -> str:
        """A download that was set aside."""
        download_id = self.queued(name)
        record = self._downloads.tracker.read(download_id)
        assert record is not None
        event = Downloading(bytes_downloaded=int(total * share), bytes_total=total, speed_mbps=0.0, status="paused")
        self._downloads.claims.release(record, event, counts=False, to="paused")
        return download_id


class Stage(NamedTuple):
    """A server whose Redis and store are drawn by hand, and what it runs with."""

    server: Server
    drawn: Drawn
    env: dict[str, str]


@contextlib.contextmanager
def staged(**more: str) -> Iterator[Stage]:
    """A server of its own, without workers."""
    with tempfile.TemporaryDirectory(prefix="hive-pictures-") as text:
        folder = Path(text)
        with EmbeddedRedis(folder / "redis") as redis, connect(redis.url) as client:
            env = environment(redis.url, folder, HIVE_DRAIN_S="0.1", HIVE_LEASE_S="600", HF_TOKEN="", **more)
            server = Server(env)
            try:
                server.wait_until_ready()
                yield Stage(server, Drawn(download_context(client, lease_s=3600)), env)
            finally:
                server.stop()


def put_sparse(settings: Settings, repo: str, files: dict[str, int]) -> None:
    """A model on the disk whose files have these sizes and no content: they take no room."""
    folder = settings.hub_dir / f"models--{repo.replace('/', '--')}"
    snapshot = folder / "snapshots" / COMMIT
    for number, (path, size) in enumerate(files.items()):
        blob = folder / "blobs" / f"{abs(hash((repo, path))) % 16**8:08x}{number:056x}"
        link = snapshot / path
        for made in (blob, link):
            made.parent.mkdir(parents=True, exist_ok=True)
        with blob.open("wb") as file:
            file.truncate(size)
        link.symlink_to(Path("../" * (len(Path(path).parts) + 1)) / "blobs" / blob.name)
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / "main").write_text(COMMIT)


def put_models(settings: Settings, models: Sequence[tuple[str, dict[str, int]]] = ()) -> None:
    """A few models of ordinary sizes."""
    for repo, files in models or MODELS:
        put_sparse(settings, repo, files)


MODELS = (
    ("ggml-org/gemma-3-27b-it-GGUF", {"gemma-3-27b-it-Q4_K_M.gguf": int(16.5 * GB), "README.md": 1000}),
    ("meta-llama/Llama-3.1-8B-Instruct", {"model-00001-of-00001.safetensors": int(16.1 * GB), "config.json": 900}),
    ("openai/whisper-large-v3-turbo", {"model.safetensors": int(1.6 * GB), "config.json": 1200}),
)
