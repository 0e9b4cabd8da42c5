"""Answers of the HTTP API, byte by byte: a world that is laid out by hand, the requests, and what may differ.

Nothing here goes through hive's own code but the server that is asked: the records are hashes as they lie in Redis, so
that any version of hive can be asked the same.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import NamedTuple

import requests

from hive.redis.client import RedisClient
from hive.settings import Settings
from tests.support.store import QUANTS, WHOLE, put, put_tree, put_url

QUEUED, RUNNING, PAUSED, COMPLETE, FAILED, ON_DISK, CANCELLED = (
    f"{n}0000000-0000-4000-8000-000000000000" for n in range(7)
)
UNKNOWN = "99999999-0000-4000-8000-000000000000"
#: When the records were made, unix milliseconds, and a moment that does not come.
MADE_MS, NEVER_MS = 1_795_357_547_005, 4_102_444_800_000

_PROGRESS = (
    '{"stage":"downloading","bytes_downloaded":40,"bytes_total":100,"speed_mbps":1.5,"status":"downloading",'
    '"bytes_per_second":1500000,"eta_seconds":3,"files_done":1,"files_total":2,'
    '"files":[{"path":"a.gguf","bytes_downloaded":40,"bytes_total":90}],"attempt":2,"newer":"field"}'
)
_WAITING = '{"stage":"downloading","bytes_downloaded":0,"bytes_total":0,"speed_mbps":0.0,"status":"%s","attempt":1}'
_END = '{"stage":"complete","local_path":"/store/m.gguf","status":"complete","bytes_total":100}'
_ERROR = (
    '{"stage":"error","message":"No.","code":"%s","status":"%s",'
    '"details":{"variants":[{"name":"Q8_0","size":5,"files":["m-Q8_0.gguf"]}]}}'
)
_STATES = {
    QUEUED: {"state": "queued", "status": "queued", "event": _WAITING % "queued", "priority": "high"},
    RUNNING: {
        "state": "running",
        "status": "downloading",
        "event": _PROGRESS,
        "attempt": "2",
        "worker": "host.7.abcd",
        "started_ms": str(MADE_MS + 100),
        "claimed_ms": str(MADE_MS + 100),
        "active_ms": "4000",
        "bytes_received": "140",
        "bytes_refetched": "40",
        "retry_of": FAILED,
    },
    PAUSED: {"state": "paused", "status": "paused", "event": _WAITING % "paused"},
    COMPLETE: {
        "state": "complete",
        "status": "complete",
        "event": _END,
        "local_path": "/store/m.gguf",
        "started_ms": str(MADE_MS + 100),
        "ended_ms": str(MADE_MS + 2100),
        "active_ms": "2000",
        "bytes_received": "100",
        "terminal": "1",
    },
    FAILED: {
        "state": "failed",
        "status": "failed",
        "event": _ERROR % ("VARIANT_NOT_FOUND", "failed"),
        "started_ms": str(MADE_MS + 100),
        "ended_ms": str(MADE_MS + 500),
        "terminal": "1",
    },
    ON_DISK: {
        "state": "complete",
        "status": "complete",
        "event": _END,
        "local_path": "/store/m.gguf",
        "ended_ms": str(MADE_MS),
        "terminal": "1",
    },
    CANCELLED: {
        "state": "cancelled",
        "status": "cancelled",
        "event": _ERROR % ("CANCELLED", "cancelled"),
        "ended_ms": str(MADE_MS + 9000),
        "terminal": "1",
    },
}


class Ask(NamedTuple):
    """A request of the samples."""

    method: str
    path: str
    body: str | None = None


_DOWNLOAD, _DOWNLOADS = "/v1/models/download", "/v1/downloads"

#: In this order, at one server.
ASKED = [
    Ask("GET", "/v1/health"),
    Ask("GET", "/healthz"),
    Ask("GET", "/readyz"),
    *(Ask("GET", f"{_DOWNLOADS}/{download_id}") for download_id in _STATES),
    Ask("GET", _DOWNLOADS),
    Ask("GET", f"{_DOWNLOADS}?status=ended&limit=2"),
    Ask("GET", f"{_DOWNLOADS}?status=verifying"),
    Ask("GET", f"{_DOWNLOADS}?status=none"),
    Ask("GET", f"{_DOWNLOADS}/{UNKNOWN}"),
    Ask("GET", f"{_DOWNLOADS}/7"),
    Ask("POST", f"{_DOWNLOADS}/{PAUSED}/resume"),
    Ask("POST", f"{_DOWNLOADS}/{PAUSED}/pause"),
    Ask("PUT", f"{_DOWNLOADS}/{PAUSED}/priority", '{"priority":"low"}'),
    Ask("PUT", f"{_DOWNLOADS}/{PAUSED}/priority", '{"priority":"none"}'),
    Ask("DELETE", f"{_DOWNLOADS}/{PAUSED}"),
    Ask("DELETE", f"{_DOWNLOADS}/{PAUSED}"),
    Ask("POST", f"{_DOWNLOADS}/{RUNNING}/retry"),
    Ask("POST", f"{_DOWNLOADS}/{FAILED}/retry"),
    Ask("POST", f"{_DOWNLOADS}/{FAILED}/retry", '{"hf_token":"hf_x"}'),
    Ask("POST", _DOWNLOAD, '{"model_ref":"hf:org/new"}'),
    Ask("POST", _DOWNLOAD, '{"model_ref":"hf:org/new"}'),
    Ask("POST", _DOWNLOAD, '{"model_ref":"hf:org/quants:Q8_0"}'),
    Ask("POST", _DOWNLOAD, '{"model_ref":"hf:org/whole","sha256":"' + "0" * 64 + '"}'),
    Ask("POST", _DOWNLOAD, '{"model_ref":"ftp://x"}'),
    Ask("POST", _DOWNLOAD, '{"model_ref":7}'),
    Ask("POST", _DOWNLOAD, '{"model_ref":"hf:a/b","include":"*"}'),
    Ask("POST", _DOWNLOAD, '{"model_ref":"hf:a/b","max_bytes_per_second":1}'),
    Ask("POST", _DOWNLOAD, '{"model_ref":"hf:a/b","webhook_url":"https://example.org/"}'),
    Ask("POST", _DOWNLOAD, "{"),
    Ask("GET", "/v1/models"),
    Ask("GET", "/v1/models/org/whole"),
    Ask("GET", "/v1/models/org/quants:Q4_K_M"),
    Ask("GET", "/v1/models/org/none"),
    Ask("DELETE", "/v1/models/org/none"),
    Ask("POST", "/v1/models/verify", '{"models":["org/whole"]}'),
    Ask("POST", "/v1/models/verify", '{"models":[""]}'),
    Ask("POST", "/v1/gc", '{"dry_run":true}'),
    Ask("POST", "/v1/gc", '{"older_than_seconds":-1}'),
    Ask("DELETE", "/v1/models/org/whole"),
    Ask("GET", "/v1/workers"),
    Ask("GET", "/v1/settings/bandwidth"),
    Ask("PUT", "/v1/settings/bandwidth", '{"bytes_per_second":40000000}'),
    Ask("PUT", "/v1/settings/bandwidth", '{"bytes_per_second":null}'),
    Ask("PUT", "/v1/settings/bandwidth", "{}"),
    Ask("GET", "/v1/settings/downloads"),
    Ask("PUT", "/v1/settings/downloads", '{"max_running":4}'),
    Ask("PUT", "/v1/settings/downloads", '{"max_running":0}'),
    Ask("GET", "/v1/nothing"),
    Ask("PUT", _DOWNLOAD),
]

#: What no two runs have in common, and what stands for it.
_VARYING = [
    (re.compile(rb'"request_id":"[0-9a-f]{32}"'), b'"request_id":"<request id>"'),
    (re.compile(rb'"alive","version":"[^"]+"'), rb'"alive","version":"<version>"'),
    (re.compile(rb'"(updated_at|ended_at|created_at|duration_seconds|seconds)":(?!179535754)\d+\.\d+'), rb'"\1":0.0'),
    (re.compile(rb"[0-9a-f]{8}-(?!0000-4000)[0-9a-f]{4}-4[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}"), b"<id>"),
]


def lay_out(store: RedisClient, settings: Settings) -> None:
    """The records, a worker and three models."""
    for number, (download_id, fields) in enumerate(_STATES.items()):
        ref = f"hf:org/model-{number}"
        record = {
            "id": download_id,
            "ref": ref,
            "identity": f"{number}" * 64,
            "request": json.dumps({"ref": ref}),
            "fence": MADE_MS,
            "seq": 1,
            "terminal": 0,
            "created_ms": MADE_MS,
            "updated_ms": MADE_MS + 700,
            **fields,
        }
        store.hset(f"hive:{{{download_id}}}", mapping=record)
        store.zadd("hive:downloads", {download_id: MADE_MS})
    store.zadd("hive:leases", {RUNNING: NEVER_MS})
    store.zadd("hive:pending", {QUEUED: MADE_MS})
    store.sadd("hive:paused", PAUSED)
    worker = {"name": "w1", "host": "h", "pid": 7, "version": "0.1.0", "state": "busy", "download_id": RUNNING}
    store.hset("hive:worker:w1", mapping={**worker, "started_at": 1795357547.5, "seen_at": 1795357548.25})
    store.hset("hive:worker:w2", mapping={**worker, "name": "w2", "state": "idle", "download_id": ""})
    store.sadd("hive:workers", "w1", "w2")
    put(settings, "org/whole", WHOLE)
    put_tree(settings, "org/whole", WHOLE)
    put(settings, "org/quants", QUANTS, refs=("main", "v1"))
    put_url(settings, "https://example.org/file.gguf?key=1", b"from afar")
    for path in settings.store_dir.rglob("*"):
        os.utime(path, (MADE_MS // 1000, MADE_MS // 1000), follow_symlinks=False)


def answers(url: str, store_dir: Path) -> list[str]:
    """What the server answers, one line each: the status, then the body without what differs from run to run."""
    found = []
    for ask in ASKED:
        answer = requests.request(ask.method, url + ask.path, data=ask.body, timeout=60)
        body = answer.content.replace(str(store_dir).encode(), b"<store>")
        for pattern, stand_in in _VARYING:
            body = pattern.sub(stand_in, body)
        found.append(
            f"{ask.method} {ask.path} {answer.status_code} {answer.headers.get('content-type')} {body.decode()}"
        )
    return found
