"""How near workers keep to the limit of the bandwidth that they share, and whether each gets its part of it."""

from __future__ import annotations

import contextlib
import json
import statistics
import time
from pathlib import Path
from typing import Final
from urllib.request import Request, urlopen

from benchmarks.running import Redis, Server, Workers
from benchmarks.statichub import REPO, StaticHub, write_random
from benchmarks.table import print_table

#: Bytes of each worker's file, in seconds of the whole limit.
FILE_S: Final = 5
#: What has come before the measurement (the workers start), and what is left after it (they end), of the whole.
FIRST_PART, LAST_PART = 0.2, 0.8
#: Seconds between two looks, for one answer, and after which it is given up.
LOOK_S: Final = 0.02
ANSWER_TIMEOUT_S: Final = 15.0
TIMEOUT_S: Final = 120.0


def measure(folder: Path, workers: int, megabytes_per_s: float, runs: int) -> None:
    """As many downloads as there are workers, `runs` times, and the table."""
    limit = int(megabytes_per_s * 1_000_000)
    size = limit * FILE_S
    files = [write_random(folder / "files" / f"model-{n}.gguf", size) for n in range(workers)]
    rates, shares = [], []
    for run in range(runs):
        place = folder / f"run-{run}"
        with contextlib.ExitStack() as stack:
            hub = stack.enter_context(StaticHub(place / "nginx", folder / "files", files))
            redis = stack.enter_context(Redis(place / "redis", None))
            settings = {
                "HF_ENDPOINT": hub.url,
                "HIVE_KEEP_FREE_PERCENT": "0",
                "HIVE_MAX_BYTES_PER_SECOND": str(limit),
            }
            server = stack.enter_context(Server(redis.url, place, None, 1, **settings))
            stack.enter_context(Workers(redis.url, place, workers, **settings))
            ids = [_ask(server.url, file.name) for file in files]
            rate, share = _rate(server.url, ids, size * workers)
        rates.append(rate / 1_000_000)
        shares.append(share)
    rows = [
        ["bytes that came, MB/s", f"{statistics.median(rates):.2f}", f"{min(rates):.2f} to {max(rates):.2f}"],
        ["of the limit", f"{statistics.median(rates) / megabytes_per_s:.3f}", ""],
        [
            "the slowest download's bytes of the fastest's",
            f"{statistics.median(shares):.2f}",
            f"{min(shares):.2f} at least",
        ],
    ]
    title = f"{workers} workers, a limit of {megabytes_per_s:g} MB/s for all, {runs} runs"
    print_table(title, ["", "median", "all runs"], rows)


def _ask(url: str, name: str) -> str:
    body = json.dumps({"model_ref": f"hf:{REPO}/{name}"}).encode()
    request = Request(f"{url}/v1/models/download", body)  # noqa: S310
    with urlopen(request, timeout=ANSWER_TIMEOUT_S) as answer:  # noqa: S310
        made: dict[str, str] = json.load(answer)
    return made["download_id"]


def _bytes(url: str, download_id: str) -> int:
    with urlopen(f"{url}/v1/downloads/{download_id}", timeout=ANSWER_TIMEOUT_S) as answer:  # noqa: S310
        shown = json.load(answer)
    if shown["status"] in ("error", "cancelled"):
        raise RuntimeError(f"a download is {shown['status']!r}")
    progress = shown.get("progress") or {}
    return int(progress.get("bytes_downloaded") or 0)


def _rate(url: str, ids: list[str], whole: int) -> tuple[float, float]:
    """Bytes a second between two parts of the whole, and the least download's bytes of the greatest's at the end.

    Raises:
        RuntimeError: a download ended otherwise than well.
        TimeoutError: they do not arrive.
    """
    began: tuple[float, int] | None = None
    deadline_s = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline_s:
        each = [_bytes(url, download_id) for download_id in ids]
        now_s, come = time.monotonic(), sum(each)
        if began is None and come >= FIRST_PART * whole:
            began = (now_s, come)
        if began is not None and come >= LAST_PART * whole:
            return (come - began[1]) / (now_s - began[0]), min(each) / max(each)
        time.sleep(LOOK_S)
    raise TimeoutError(f"the downloads did not arrive within {TIMEOUT_S:.0f} s")
