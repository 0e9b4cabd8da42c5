"""`/metrics`: the figures of the fleet and of its HTTP processes, in the words of Prometheus.

Problem: whoever scrapes reaches one of several processes, and the downloads run in others. The easy ways, counters in
each process or prometheus_client's shared files, give another answer from every replica, or end at the machine. So
nothing is counted here: a scrape reads the fleet's counters (hive/metrics/fleet.py) and the notes of all processes
(hive/metrics/replica.py), and every replica gives the same. While Redis is away, the process tells of itself alone, and
`hive_store_up` is 0; what belongs to the fleet is absent then, because a counter that falls to 0 would look like a
restart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, get_args

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from hive import errors
from hive.downloads.scripts import QUEUE_WAIT_CLASSES_S
from hive.metrics.fleet import FleetFigures, RedisMemory
from hive.metrics.replica import ReplicaFigures
from hive.store.space import DiskSpace
from hive.wire.events import TerminalStatus

#: Counters of the fleet: name, help, field of `hive:metrics`.
_COUNTERS: Final = (
    ("hive_downloads_created", "Downloads that were begun; not models that were on disk already.", "created"),
    ("hive_downloads_joined", "Requests that joined a download under way.", "joined"),
    ("hive_download_attempts", "Attempts that a worker has begun.", "claims"),
    ("hive_download_recoveries", "Attempts that ended with the death of a worker; another goes on.", "recovered"),
    (
        "hive_download_releases",
        "Attempts that a worker ended in order: it was stopped, or the download paused.",
        "released",
    ),
    ("hive_download_preemptions", "Attempts that ended to make room for a download of high priority.", "preempted"),
    ("hive_downloads_unreadable", "Records that could not be read, and were set aside.", "unreadable"),
    ("hive_bytes_received", "Bytes that came over the network.", "bytes_received"),
    ("hive_bytes_refetched", "Bytes among them that had come before.", "bytes_refetched"),
)
#: Gauges of the fleet: name, help, value.
_GAUGES: Final[tuple[tuple[str, str, Callable[[FleetFigures], float]], ...]] = (
    (
        "hive_download_speed_bytes_per_second",
        "What running downloads bring together, by their last events.",
        lambda fleet: fleet.bytes_per_second,
    ),
    (
        "hive_bandwidth_limit_bytes_per_second",
        "What all workers together may take from the network; 0 for no limit.",
        lambda fleet: fleet.bandwidth_limit,
    ),
    ("hive_downloads_limit", "How many downloads may run at once; 0 for no limit.", lambda fleet: fleet.running_limit),
)
#: Counters of a process: name, help, value.
_REPLICA_COUNTERS: Final[tuple[tuple[str, str, Callable[[ReplicaFigures], float]], ...]] = (
    ("hive_replica_streams_ended", "Streams that have ended, for whatever reason.", lambda r: r.streams_ended),
    (
        "hive_replica_frames_sent",
        "Changes told to streams: one that n clients watch counts n.",
        lambda r: r.frames_sent,
    ),
    (
        "hive_replica_slow_clients_cut",
        "Clients given up because they took nothing for 30 s.",
        lambda r: r.stalled_clients,
    ),
    (
        "hive_replica_redis_round_trips",
        "Commands, scripts and pipelines sent to Redis.",
        lambda r: r.redis_round_trips,
    ),
    ("hive_replica_pubsub_messages", "Messages received over the subscription.", lambda r: r.pubsub_messages),
    ("hive_replica_pubsub_reconnects", "How often the subscription was made again.", lambda r: r.pubsub_reconnects),
    ("hive_replica_cpu_seconds", "CPU time of the process, user and system.", lambda r: r.cpu_s),
)
#: Gauges of a process: name, help, value.
_REPLICA_GAUGES: Final[tuple[tuple[str, str, Callable[[ReplicaFigures], float]], ...]] = (
    (
        "hive_replica_event_loop_lag_seconds",
        "How late the event loop was at worst in the last 15 s.",
        lambda r: r.loop_lag_s,
    ),
    ("hive_replica_resident_memory_bytes", "Memory of the process.", lambda r: r.resident_bytes),
    ("hive_replica_start_time_seconds", "When the process began, unix time.", lambda r: r.started_at),
)
#: What a download can fail with, told from the start: a counter that appears with its first 1 shows no increase.
_FAULTS: Final[tuple[type[errors.HiveError], ...]] = (
    errors.DownloadError,
    *(kind for kind in errors.DownloadError.__subclasses__() if kind is not errors.Cancelled),
    errors.FileNotFound,
    errors.HubRefused,
    errors.HubUnavailable,
    errors.InternalError,
    errors.ModelAccessDenied,
    errors.ModelNotFound,
    errors.ResourcesExhausted,
    errors.RevisionNotFound,
    errors.UnsafeUrl,
    errors.VariantNotFound,
)
_STATES: Final = get_args(TerminalStatus)
_WORKER_STATES: Final = ("idle", "busy")
_LLM_STATES: Final = ("queued", "loading", "idle", "busy", "draining")
#: How requests to models end, told from the start.
_OUTCOMES: Final = ("MAX_TOKENS", "EOS", "STOP_SEQUENCE", "CANCELLED", "TIMEOUT", "INFERENCE_FAILED", "PASSED_ON")


class Scrape(Collector):
    """What one scrape shows. `fleet` is None while Redis is away or takes no writes, `disk` while the filesystem does
    not answer, `memory` where Redis does not say it.
    """

    def __init__(
        self, own: ReplicaFigures, fleet: FleetFigures | None, disk: DiskSpace | None, memory: RedisMemory | None
    ) -> None:
        self._own = own
        self._fleet = fleet
        self._memory = memory
        self._disk = disk

    def encode(self, accept: str) -> tuple[bytes, str]:
        """The text and its content type: of Prometheus or of OpenMetrics, as the `Accept` header prefers."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        encoder, content_type = choose_encoder(accept)
        return encoder(registry), content_type

    def collect(self) -> Iterator[Metric]:
        """Every metric family."""
        yield GaugeMetricFamily(
            "hive_store_up",
            "Whether Redis answers and takes writes; 0: only the process's own figures are here.",
            self._fleet is not None,
        )
        if self._fleet is not None:
            yield from _of_fleet(self._fleet)
        if self._memory is not None:
            yield GaugeMetricFamily(
                "hive_redis_memory_bytes", "What Redis holds against its maxmemory.", self._memory.used
            )
            yield GaugeMetricFamily(
                "hive_redis_memory_limit_bytes", "Its maxmemory; 0 for no limit.", self._memory.limit
            )
        if self._disk is not None:
            yield GaugeMetricFamily("hive_disk_free_bytes", "Free space of the store's filesystem.", self._disk.free)
            yield GaugeMetricFamily("hive_disk_size_bytes", "Size of the store's filesystem.", self._disk.total)
        yield from _of_replicas(self._fleet.replicas if self._fleet is not None else (self._own,))


def _of_fleet(fleet: FleetFigures) -> Iterator[Metric]:
    live = GaugeMetricFamily("hive_downloads", "Downloads under way, by state.", labels=["state"])
    for state, number in (("queued", fleet.queued), ("running", fleet.running), ("paused", fleet.paused)):
        live.add_metric([state], number)
    yield live
    for name, text, field in _COUNTERS:
        yield CounterMetricFamily(name, text, fleet.counters.get(field, 0))
    ended = CounterMetricFamily("hive_downloads_ended", "Downloads that have ended, by state.", labels=["state"])
    for state in _STATES:
        ended.add_metric([state], fleet.counters.get(f"ended_{state}", 0))
    yield ended
    yield _faults(fleet)
    yield _queue_wait(fleet)
    for name, text, value in _GAUGES:
        yield GaugeMetricFamily(name, text, value(fleet))
    workers = GaugeMetricFamily("hive_workers", "Worker processes alive, by state.", labels=["state"])
    for state in _WORKER_STATES:
        workers.add_metric([state], fleet.workers.get(state, 0))
    yield workers
    yield from _of_models(fleet)


def _of_models(fleet: FleetFigures) -> Iterator[Metric]:
    """Models in memory. Times are kept as microseconds: a hash counts whole numbers."""
    workers = GaugeMetricFamily("hive_llm_workers", "Workers of models in memory, by state.", labels=["state"])
    for state in _LLM_STATES:
        workers.add_metric([state], fleet.llm_workers.get(state, 0))
    yield workers
    counters = fleet.counters
    requests = CounterMetricFamily("hive_llm_requests", "Requests to models, by how they ended.", labels=["outcome"])
    told = {name.removeprefix("llm_requests_") for name in counters if name.startswith("llm_requests_")}
    for outcome in sorted(told.union(_OUTCOMES)):
        requests.add_metric([outcome], counters.get(f"llm_requests_{outcome}", 0))
    yield requests
    tokens = CounterMetricFamily("hive_llm_tokens", "Tokens of prompts, and of answers.", labels=["direction"])
    for direction in ("in", "out"):
        tokens.add_metric([direction], counters.get(f"llm_tokens_{direction}", 0))
    yield tokens
    decoding_s = counters.get("llm_decode_us", 0) / 1e6
    yield CounterMetricFamily(
        "hive_llm_decode_seconds", "From the first token to the last, of all answers.", decoding_s
    )
    first_s = counters.get("llm_first_token_us", 0) / 1e6
    yield CounterMetricFamily("hive_llm_first_token_seconds", "From requests to their first tokens, of all.", first_s)
    yield CounterMetricFamily("hive_llm_first_tokens", "Answers that had one.", counters.get("llm_first_tokens", 0))


def _faults(fleet: FleetFigures) -> Metric:
    family = CounterMetricFamily("hive_download_faults", "Failed downloads, by the error's code.", labels=["code"])
    told = {name.removeprefix("fault_") for name in fleet.counters if name.startswith("fault_")}
    for code in sorted(told.union(fault.code for fault in _FAULTS)):
        family.add_metric([code], fleet.counters.get(f"fault_{code}", 0))
    return family


def _queue_wait(fleet: FleetFigures) -> Metric:
    """Every attempt waited once, so the last class holds as many as have begun."""
    counters = fleet.counters
    buckets = [
        (f"{class_s:.1f}", float(counters.get(f"queue_wait_le_{class_s}", 0))) for class_s in QUEUE_WAIT_CLASSES_S
    ]
    buckets.append(("+Inf", float(counters.get("claims", 0))))
    return HistogramMetricFamily(
        "hive_queue_wait_seconds",
        "How long downloads waited for a worker, once for each attempt.",
        buckets=buckets,
        sum_value=counters.get("queue_wait_ms", 0) / 1000,
    )


def _of_replicas(replicas: tuple[ReplicaFigures, ...]) -> Iterator[Metric]:
    build = InfoMetricFamily("hive_build", "The version of hive that each HTTP process runs.")
    streams = GaugeMetricFamily(
        "hive_replica_streams", "Streams open, of one download or of many.", labels=["replica", "kind"]
    )
    for replica in replicas:
        build.add_metric([], {"replica": replica.name, "version": replica.version, "python": replica.python})
        streams.add_metric([replica.name, "one"], replica.streams)
        streams.add_metric([replica.name, "many"], replica.many_streams)
    yield build
    yield streams
    for name, text, value in _REPLICA_COUNTERS:
        counter = CounterMetricFamily(name, text, labels=["replica"])
        for replica in replicas:
            counter.add_metric([replica.name], value(replica))
        yield counter
    for name, text, value in _REPLICA_GAUGES:
        gauge = GaugeMetricFamily(name, text, labels=["replica"])
        for replica in replicas:
            gauge.add_metric([replica.name], value(replica))
        yield gauge
