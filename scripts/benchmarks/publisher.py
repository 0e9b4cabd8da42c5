"""Publishes progress as a worker does, as a process of its own: `python -m benchmarks.publisher --help`.

Each event carries the present CLOCK_MONOTONIC in microseconds as `bytes_downloaded`, from which the load generator
takes latencies. With many downloads, events go out evenly over time and through a pipeline, so that the publisher is
not what is measured. Commands on standard input, each answered with a line of JSON: `go`, `stop`, `finish` (ends every
download), and at the beginning the ids of the downloads.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import selectors
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from benchmarks.machine import DRIVER_CORE
from benchmarks.running import ROOT, Told

#: Seconds between two batches when there are many downloads.
SLICE_S = 0.005
#: Seconds for which a claim holds: longer than any benchmark.
LEASE_S = 600
#: Bytes of the made-up download.
TOTAL_BYTES = 4_368_439_584


class Publisher(Told):
    """A publisher of `count` downloads at `rate_per_s` events a second each, started but silent until told `go`."""

    def __init__(self, redis_url: str, count: int, rate_per_s: float, *, nchan: int = 0) -> None:
        options = ["--redis", redis_url, "--count", count, "--rate", rate_per_s, "--nchan", nchan]
        command = [sys.executable, "-m", "benchmarks.publisher", *map(str, options)]
        super().__init__(command, DRIVER_CORE, {"PYTHONPATH": f"{ROOT / 'scripts'}:{ROOT}"})
        self.ids: list[str] = self.hear()["ids"]


class _Target(Protocol):
    """Where events go: `ids`, a way to publish events for some of them, and a way to end them all."""

    ids: Sequence[str]

    def publish(self, indices: Sequence[int]) -> None:
        """One event for each of these downloads."""

    def finish(self) -> None:
        """The terminal event of every download."""


class _Hive(_Target):
    """Downloads of hive: created, claimed, published and finished through its records and scripts."""

    def __init__(self, redis_url: str, count: int) -> None:
        from hive.downloads import scripts
        from hive.downloads.claims import Claims
        from hive.downloads.record import New
        from hive.downloads.tracker import DownloadTracker
        from hive.redis.client import connect
        from hive.redis.lua import Script
        from hive.wire.jobs import Request

        self._redis = connect(redis_url)
        tracker = DownloadTracker(self._redis, ended_ttl_s=600, max_queued=1_000_000)
        self._owner = Claims(self._redis, ended_ttl_s=600, lease_s=LEASE_S)
        self._script = Script(self._redis, scripts.PUBLISH)
        self._claims = []
        began = time.monotonic_ns()
        for number in range(count):
            name = f"bench-{began}-{number}"
            new = New(dedup_key=name, ref=f"hf:bench/{name}", request=Request(ref=f"hf:bench/{name}"), event=_event(0))
            record = tracker.read(tracker.create(new)[0])
            assert record is not None
            claim = self._owner.claim(record, "bench", "bench", _event(0))
            assert claim is not None
            self._claims.append(claim)
        self.ids = [claim.id for claim in self._claims]
        self._seq = 2

    def publish(self, indices: Sequence[int]) -> None:
        """Through the script that `Claims.publish` runs, many in one round trip."""
        from hive.wire import events, keys

        with self._redis.pipeline(transaction=False) as pipeline:
            for index in indices:
                claim = self._claims[index]
                self._seq += 1
                self._script(
                    client=pipeline,
                    record=keys.record(claim.id),
                    channel=keys.events(claim.id, 0),
                    leases=keys.LEASES,
                    id=claim.id,
                    fence=claim.fence,
                    seq=self._seq,
                    event=events.encode(_event(_now_us())),
                    lease_ms=LEASE_S * 1000,
                    status="downloading",
                    bytes_done=1,
                    received=0,
                    refetched=0,
                    found="",
                )
            pipeline.execute()

    def finish(self) -> None:
        """As a worker does at the end."""
        from hive.wire.events import Complete

        for claim in self._claims:
            event = Complete(local_path="/models/model-q4_k_m.gguf", status="complete")
            self._owner.finish(claim, self._seq + 1, "complete", event, "/models/model-q4_k_m.gguf")


class _Nchan(_Target):
    """Channels of nchan: the same events, posted."""

    def __init__(self, port: int, count: int) -> None:
        began = time.monotonic_ns()
        self.ids = [f"bench-{began}-{number}" for number in range(count)]
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        self.publish(range(count))

    def publish(self, indices: Sequence[int]) -> None:
        """One POST each, over one connection."""
        from hive.wire import events

        for index in indices:
            self._post(index, events.encode(_event(_now_us())))

    def finish(self) -> None:
        """The same terminal event."""
        from hive.wire import events

        for index in range(len(self.ids)):
            event = events.Complete(local_path="/models/model-q4_k_m.gguf", status="complete")
            self._post(index, events.encode(event))

    def _post(self, index: int, body: bytes) -> None:
        self._connection.request("POST", f"/publish?id={self.ids[index]}", body)
        self._connection.getresponse().read()


def _now_us() -> int:
    return time.monotonic_ns() // 1000


def _event(done: int) -> Any:
    """An event as a worker sends it half-way: some 300 bytes."""
    from hive.wire.events import Downloading, FileProgress

    return Downloading(
        bytes_downloaded=done,
        bytes_total=TOTAL_BYTES,
        speed_mbps=45.2,
        status="downloading",
        bytes_per_second=45_200_000,
        eta_seconds=74,
        files_done=0,
        files_total=1,
        files=(FileProgress("model-q4_k_m.gguf", done, TOTAL_BYTES),),
        attempt=1,
    )


def _run(target: _Target, rate_per_s: float) -> None:
    """Publish and obey until standard input ends."""
    gap_s = 1 / (rate_per_s * len(target.ids))
    due_s: float | None = None
    sent = 0
    with selectors.DefaultSelector() as selector:
        selector.register(sys.stdin.fileno(), selectors.EVENT_READ)
        while True:
            now_s = time.monotonic()
            if due_s is not None and now_s >= due_s:
                wanted = min(int((now_s - due_s) / gap_s) + 1, len(target.ids))
                target.publish([(sent + offset) % len(target.ids) for offset in range(wanted)])
                sent += wanted
                # What could not be sent in time is left out: a slow publisher must not send a burst.
                due_s = max(due_s + wanted * gap_s, now_s)
            pause_s = 1.0 if due_s is None else max(due_s - time.monotonic(), min(SLICE_S, gap_s))
            if selector.select(pause_s):
                word = sys.stdin.readline().strip()
                if not word:
                    return
                due_s = time.monotonic() if word == "go" else None
                if word == "finish":
                    target.finish()
                print(json.dumps({"done": word, "sent": sent}), flush=True)


def main() -> None:
    """Read the command line, make the downloads, obey."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.publisher", description=__doc__)
    parser.add_argument("--redis", required=True, help="URL of Redis")
    parser.add_argument("--count", type=int, default=1, help="number of downloads")
    parser.add_argument("--rate", type=float, default=5.0, help="events a second of each")
    parser.add_argument("--nchan", type=int, default=0, help="publish to nchan on this port instead")
    options = parser.parse_args()
    make: Callable[[], _Target] = (
        (lambda: _Nchan(options.nchan, options.count)) if options.nchan else lambda: _Hive(options.redis, options.count)
    )
    target = make()
    print(json.dumps({"ids": list(target.ids)}), flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        _run(target, options.rate)


if __name__ == "__main__":
    main()
