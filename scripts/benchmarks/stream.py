"""The stream: what one server process costs for each delivery, how late deliveries are, and what connections hold.

Each run starts its server anew, on a core of its own; the load generator, the publisher and Redis share the other.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

from benchmarks import machine
from benchmarks.generator import Generator, compile_generator
from benchmarks.nchan import Nchan, has_nchan
from benchmarks.publisher import Publisher
from benchmarks.running import Redis, Server
from benchmarks.table import middle, print_table, ratio

#: Events a second of a download: the most that a worker sends.
RATE_PER_S = 5.0
#: Seconds of publishing before the measurement begins.
WARM_UP_S = 2.0
#: Seconds for the last frames to arrive and the connections to end.
END_S = 15
#: Seconds within which a client that does not read must be gone.
STALL_LIMIT_S = 60
#: Seconds in which they connect and their buffers fill: until then they cost what other clients cost.
FILLING_S = 8.0
#: What nchan and hive are asked for.
HIVE_PATH, NCHAN_PATH = "/v1/models/download/progress?id=", "/subscribe?id="


@dataclass
class Run:
    """What one run of one server showed."""

    cpu_us: float = 0.0
    cpu_percent: float = 0.0
    waited_percent: float = 0.0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    max_ms: float = 0.0
    deliveries_per_s: float = 0.0
    least: int = 0
    most: int = 0
    kib_per_connection: float = 0.0
    base_mib: float = 0.0
    ends: dict[str, Any] = field(default_factory=dict)
    ready: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Load:
    """How many watch how many downloads, at how many events a second each, for how long."""

    subscribers: int
    ids: int = 1
    rate_per_s: float = RATE_PER_S
    seconds: float = 10.0


class Bench:
    """A folder, a Redis and a generator for all runs of one invocation."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.program = compile_generator(folder)
        self.redis = Redis(folder / "redis")
        self.client = redis.Redis.from_url(self.redis.url, socket_timeout=5)

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.redis.stop()

    @contextlib.contextmanager
    def hive(self, processes: int = 0) -> Iterator[tuple[int, int, Callable[[Load], Publisher], str]]:
        """hive's server: port, pid, a maker of publishers, and the path of a stream.

        On the server's core, or with so many `processes` on any.
        """
        self.client.flushall()
        place = {"core": None, "processes": processes} if processes else {}
        with Server(self.redis.url, self.folder / "hive", **place) as server:  # type: ignore[arg-type]
            yield server.port, server.pid, lambda load: Publisher(self.redis.url, load.ids, load.rate_per_s), HIVE_PATH

    @contextlib.contextmanager
    def nchan(self) -> Iterator[tuple[int, int, Callable[[Load], Publisher], str]]:
        """nchan, likewise; the pid is that of its worker."""
        self.client.flushall()
        with Nchan(self.folder / "nchan", self.redis.url) as nginx:

            def publisher(load: Load) -> Publisher:
                return Publisher(self.redis.url, load.ids, load.rate_per_s, nchan=nginx.port)

            yield nginx.port, nginx.worker_pid, publisher, NCHAN_PATH


def deliver(serving: Any, bench: Bench, load: Load) -> Run:
    """Subscribe, publish for a while, end the downloads."""
    run = Run()
    with serving as (port, pid, make_publisher, path), make_publisher(load) as publisher:
        base = machine.memory(pid)
        with Generator(bench.program, port, [path + i for i in publisher.ids], load.subscribers) as generator:
            run.ready = generator.ready
            held = machine.memory(pid)
            run.base_mib = base.rss_kib / 1024
            run.kib_per_connection = (held.pss_kib - base.pss_kib) / load.subscribers
            publisher.tell("go")
            time.sleep(WARM_UP_S)
            generator.tell("window")
            cpu_s, waited_s = machine.cpu_s(pid), machine.waited_s(pid)
            time.sleep(load.seconds)
            window = generator.tell("window")
            cpu_s, waited_s = machine.cpu_s(pid) - cpu_s, machine.waited_s(pid) - waited_s
            publisher.tell("finish")
            run.ends = generator.tell(f"end {END_S if path == HIVE_PATH else 1}")
    run.cpu_us = cpu_s * 1e6 / max(1, window["frames"])
    run.cpu_percent = cpu_s * 100 / window["seconds"]
    run.waited_percent = waited_s * 100 / window["seconds"]
    run.deliveries_per_s = window["frames"] / window["seconds"]
    run.p50_ms, run.p99_ms, run.max_ms = (window["latency"][name] for name in ("p50_ms", "p99_ms", "max_ms"))
    run.least, run.most = window["least"], window["most"]
    return run


#: The rows of a table: what, the field of a run, digits.
_ROWS = (
    ("CPU per delivery, microseconds", "cpu_us", 1),
    ("CPU of the server process, % of a core", "cpu_percent", 0),
    ("deliveries a second", "deliveries_per_s", 0),
    ("latency p50, ms", "p50_ms", 1),
    ("latency p99, ms", "p99_ms", 1),
    ("latency max, ms", "max_ms", 1),
    ("memory per connection, KiB", "kib_per_connection", 1),
    ("time without a core though there was work, %", "waited_percent", 0),
)


def compare(bench: Bench, load: Load, pairs: int, title: str, *, peer: bool = True) -> None:
    """hive and nchan in turns; medians, and medians of the ratios of each pair."""
    mine: list[Run] = []
    peers: list[Run] = []
    peer = peer and has_nchan()
    for _ in range(pairs):
        mine.append(deliver(bench.hive(), bench, load))
        if peer:
            peers.append(deliver(bench.nchan(), bench, load))
    rows = []
    for what, name, digits in _ROWS:
        ours, theirs = ([float(getattr(run, name)) for run in runs] for runs in (mine, peers))
        compared = [middle(theirs, digits), ratio(ours, theirs)] if peers else []
        rows.append([what, middle(ours, digits), *compared])
    blank = ["", ""] if peers else []
    ends = ", ".join(f"{run.ends['terminals']}/{load.subscribers}" for run in mine)
    rows.append(["ends seen / subscribers, each run", ends, *blank])
    rows.append(
        ["frames per subscriber, least to most", ", ".join(f"{run.least} to {run.most}" for run in mine), *blank]
    )
    rows.append(["[DONE] seen; frames out of order", f"{_sum(mine, 'dones')}; {_sum(mine, 'violations')}", *blank])
    head = ["", "hive", "nchan", "ratio"] if peers else ["", "hive"]
    print_table(f"{title} (medians of {pairs} runs{', in turns' if peers else ''})", head, rows)


def _sum(runs: list[Run], name: str) -> int:
    return sum(int(run.ends[name]) for run in runs)


def idle(bench: Bench, connections: int, seconds: float) -> None:
    """Connections to which nothing is said but keep-alives."""
    with bench.hive() as (port, pid, make_publisher, path), make_publisher(Load(connections)) as publisher:
        base = machine.memory(pid)
        with Generator(bench.program, port, [path + publisher.ids[0]], connections) as generator:
            cpu_s, began_s = machine.cpu_s(pid), time.monotonic()
            time.sleep(seconds)
            percent = (machine.cpu_s(pid) - cpu_s) * 100 / (time.monotonic() - began_s)
            held = machine.memory(pid)
            window = generator.tell("window")
    rows = [
        ["connections open at the end", f"{window['open']}"],
        ["resident memory before, MiB", f"{base.rss_kib / 1024:.1f}"],
        ["resident memory above that, MiB", f"{(held.rss_kib - base.rss_kib) / 1024:.1f}"],
        ["KiB per connection", f"{(held.rss_kib - base.rss_kib) / connections:.1f}"],
        [f"CPU over {seconds:.0f} s with keep-alives, % of a core", f"{percent:.2f}"],
        ["keep-alives received", f"{window['comments']}"],
    ]
    print_table(f"{connections:,} idle connections", ["", "hive"], rows)


def reconnect(bench: Bench, connections: int, times: int) -> None:
    """All clients come back in the same moment."""
    rows = []
    with contextlib.ExitStack() as stack:
        port, pid, make_publisher, path = stack.enter_context(bench.hive())
        publisher = stack.enter_context(make_publisher(Load(connections)))
        paths = [path + publisher.ids[0]]
        generator = stack.enter_context(Generator(bench.program, port, paths, connections))
        for number in range(1, times + 1):
            reads, cpu_s = _state_reads(bench), machine.cpu_s(pid)
            back = generator.tell("reconnect", 90)
            first = [back["first_frame"][name] / 1000 for name in ("p50_ms", "p99_ms", "max_ms")]
            each_us = (machine.cpu_s(pid) - cpu_s) * 1e6 / connections
            reads = _state_reads(bench) - reads
            rows.append(
                [f"{number}", f"{back['with_frame']}", *(f"{s:.2f}" for s in first), f"{reads}", f"{each_us:.0f}"]
            )
    head = ["time", "got a first frame", "p50, s", "p99, s", "last, s", "reads of the state", "CPU each, microseconds"]
    print_table(f"{connections:,} clients reconnect at once", head, rows)


def _state_reads(bench: Bench) -> int:
    found = bench.client.info("commandstats").get("cmdstat_hmget", {})
    # The scripts read with HMGET too, but run only when the publisher was told to go, and here it was not.
    return int(found.get("calls", 0))


def stalled(bench: Bench, load: Load, count: int) -> None:
    """Clients that never read, beside others that do."""
    with bench.hive() as (port, pid, make_publisher, path), make_publisher(load) as publisher:
        paths = [path + publisher.ids[0]]
        with Generator(bench.program, port, paths, load.subscribers) as reading:
            base = machine.memory(pid)
            publisher.tell("go")
            time.sleep(WARM_UP_S)
            reading.tell("window")
            time.sleep(load.seconds)
            before = reading.tell("window")
            files = machine.open_files(pid)
            with Generator(bench.program, port, paths, 0, stalled=count):
                began_s, most, gone_s = time.monotonic(), base.rss_kib, None
                filling: dict[str, Any] | None = None
                while (elapsed_s := time.monotonic() - began_s) < STALL_LIMIT_S * 1.5 and gone_s is None:
                    most = max(most, machine.memory(pid).rss_kib)
                    # The server's side counts: a client that does not read does not see that it was cut.
                    if machine.open_files(pid) <= files + count // 100:
                        gone_s = elapsed_s
                    if filling is None and elapsed_s >= FILLING_S:
                        filling = reading.tell("window")
                    time.sleep(0.5)
                during = reading.tell("window")
            publisher.tell("finish")
            ends = reading.tell(f"end {END_S}")
    rows = [
        ["resident memory more at most, MiB", f"{(most - base.rss_kib) / 1024:.1f}"],
        ["all stalled clients gone after, s", "never" if gone_s is None else f"{gone_s:.0f}"],
        ["p99 of the others before, ms", f"{before['latency']['p99_ms']:.1f}"],
        [f"p99 of the others in the first {FILLING_S:.0f} s, while they connect, ms", _p99(filling)],
        ["p99 of the others after that, ms", _p99(during)],
        ["ends seen by the others", f"{ends['terminals']}/{load.subscribers}"],
    ]
    print_table(f"{count:,} clients that never read, {load.subscribers:,} that do", ["", "hive"], rows)


def _p99(window: dict[str, Any] | None) -> str:
    return "" if window is None else f"{window['latency']['p99_ms']:.1f}"


def saturate(bench: Bench, load: Load) -> None:
    """More than a core can deliver: hive leaves out what is overtaken, so latency stays bounded."""
    run = deliver(bench.hive(), bench, load)
    rows = [
        ["deliveries a second", f"{run.deliveries_per_s:,.0f}"],
        ["offered a second", f"{load.subscribers * load.rate_per_s:,.0f}"],
        ["CPU per delivery, microseconds", f"{run.cpu_us:.1f}"],
        ["CPU of the server process, % of a core", f"{run.cpu_percent:.0f}"],
        ["latency p50 / p99, ms", f"{run.p50_ms:.1f} / {run.p99_ms:.1f}"],
        ["ends seen", f"{run.ends['terminals']}/{load.subscribers}"],
    ]
    print_table(
        f"Saturation: {load.subscribers:,} subscribers, {load.rate_per_s:.0f} events a second", ["", "hive"], rows
    )


def processes(bench: Bench, load: Load) -> None:
    """What `hive serve --processes 2` gives, where the generator and Redis want the cores too."""
    runs = [deliver(bench.hive(number), bench, load) for number in (1, 2)]
    rows = [
        ["deliveries a second", *(f"{run.deliveries_per_s:,.0f}" for run in runs)],
        ["latency p50 / p99, ms", *(f"{run.p50_ms:.1f} / {run.p99_ms:.1f}" for run in runs)],
        ["ends seen", *(f"{run.ends['terminals']}/{load.subscribers}" for run in runs)],
    ]
    title = f"Processes: {load.subscribers:,} subscribers, {load.rate_per_s:.0f} events a second, no core reserved"
    print_table(title, ["", "1 process", "2 processes"], rows)
