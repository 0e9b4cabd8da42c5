"""What `/metrics` shows, how it is read, and that the documentation, the alerts and the dashboard speak of the same."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import threading
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
import yaml
from prometheus_client import parser
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import parser as openmetrics_parser

from hive.downloads.admission import BandwidthLimit
from hive.downloads.context import DownloadContext
from hive.downloads.registry import WorkerInfo, worker_registry
from hive.metrics.fleet import FleetFigures, RedisMemory, read_fleet
from hive.metrics.prometheus import Scrape
from hive.metrics.replica import ReplicaFigures, replica_registry
from hive.redis.client import CommandThread, RedisClient
from hive.settings import Settings
from hive.store import space
from hive.store.space import Disk, DiskSpace, space_of
from hive.wire import keys
from tests.support.downloads import claim, complete, create, downloading, failed

DOCS = Path(__file__).parents[2] / "docs"
DOCUMENT = (DOCS / "metrics.md").read_text()
DASHBOARD: dict[str, Any] = json.loads((DOCS / "grafana-dashboard.json").read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]


def figures(name: str = "host.1.abcd", **changed: Any) -> ReplicaFigures:
    made = ReplicaFigures(
        name=name,
        version="1.2.3",
        python="3.11.9",
        started_at=1795357547.5,
        streams=7,
        many_streams=2,
        streams_ended=30,
        stalled_clients=1,
        frames_sent=4000,
        redis_round_trips=50,
        pubsub_messages=600,
        pubsub_reconnects=3,
        loop_lag_s=0.004,
        resident_bytes=50_000_000,
        cpu_s=12.5,
    )
    return msgspec.structs.replace(made, **changed)


def fleet(**changed: Any) -> FleetFigures:
    made = FleetFigures(
        counters={},
        queued=0,
        running=0,
        paused=0,
        bytes_per_second=0,
        bandwidth_limit=0,
        running_limit=0,
        workers={},
        replicas=(figures(),),
    )
    return msgspec.structs.replace(made, **changed)


class Sample(NamedTuple):
    name: str
    labels: dict[str, str]
    value: float


def samples(scrape: Scrape) -> list[Sample]:
    """What a reader of the text gets."""
    text, _ = scrape.encode("")
    families = parser.text_string_to_metric_families(text.decode())
    return [Sample(s.name, s.labels, s.value) for family in families for s in family.samples]


def value(scrape: Scrape, name: str, **labels: str) -> float:
    (found,) = (s.value for s in samples(scrape) if s.name == name and labels.items() <= s.labels.items())
    return found


FULL = Scrape(figures(), fleet(), DiskSpace(1, 2), RedisMemory(3, 4))


# -- the documentation -----------------------------------------------------------------------------------------------


def shown_name(family: Metric) -> str:
    """The name of a family as a query uses it."""
    return family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")


def shown() -> dict[str, tuple[str, frozenset[str]]]:
    """Type and labels of every metric."""
    return {
        shown_name(family): (
            "gauge" if family.type == "info" else family.type,
            frozenset(label for sample in family.samples for label in sample.labels) - {"le"},
        )
        for family in FULL.collect()
    }


def documented() -> dict[str, tuple[str, frozenset[str]]]:
    rows = re.findall(r"^\| `(hive_\w+)` \| (\w+) \| ([^|]*)\|", DOCUMENT, re.MULTILINE)
    return {name: (kind, frozenset(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}


def test_every_metric_is_documented_with_its_type_and_labels_and_none_that_is_not_there() -> None:
    assert documented() == shown()


def queryable() -> set[str]:
    """Every name that a query may use."""
    histograms = {name for name, (kind, _) in shown().items() if kind == "histogram"}
    return shown().keys() | {f"{name}_{part}" for name in histograms for part in ("bucket", "count", "sum")}


def named_in(expression: str) -> set[str]:
    return set(re.findall(r"\bhive_\w+", expression))


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)


def test_the_sample_of_a_scrape_is_read_as_one() -> None:
    (scrape,) = (yaml.safe_load(block) for block in blocks("yaml"))
    (job,) = scrape["scrape_configs"]
    assert job["static_configs"][0]["targets"] == ["127.0.0.1:8080"]
    assert job.get("metrics_path", "/metrics") == "/metrics"


def test_the_alerts_are_well_formed_and_ask_for_what_is_there() -> None:
    (group,) = yaml.safe_load((DOCS.parent / "deploy" / "monitoring" / "alerts.yml").read_text())["groups"]
    names = [rule["alert"] for rule in group["rules"]]
    assert len(set(names)) == len(names) >= 8
    for rule in group["rules"]:
        assert named_in(rule["expr"]), rule
        assert named_in(rule["expr"]) <= queryable(), rule
        assert rule["annotations"]["summary"].endswith((".", "?")), rule
        assert re.fullmatch(r"\d+[smh]", rule.get("for", "1m")), rule
        assert rule["annotations"]["description"].endswith("."), rule
        assert f"| `{rule['alert']}` | {rule['labels']['severity']} |" in DOCUMENT, rule


def test_the_queries_of_the_documentation_ask_for_what_is_there() -> None:
    (queries,) = blocks("promql")
    assert named_in(queries)
    assert named_in(queries) <= queryable()


# -- the dashboard ---------------------------------------------------------------------------------------------------


def test_every_panel_asks_for_something_that_hive_shows() -> None:
    assert len(PANELS) >= 12
    for panel in PANELS:
        assert panel["targets"], panel["title"]
        for target in panel["targets"]:
            assert named_in(target["expr"]), panel["title"]
            assert named_in(target["expr"]) <= queryable(), panel["title"]
            assert target["expr"].count("(") == target["expr"].count(")"), panel["title"]


def test_every_metric_has_its_place_on_the_dashboard() -> None:
    asked = named_in(" ".join(target["expr"] for panel in PANELS for target in panel["targets"]))
    assert {name.removesuffix("_bucket") for name in asked} == shown().keys()


def test_no_panel_sums_the_same_figure_of_several_replicas() -> None:
    """Each replica shows the whole fleet: a maximum must come before any sum."""
    for panel in PANELS:
        for target in panel["targets"]:
            assert not re.search(r"sum(?: by \([^)]*\))? ?\((?:rate|increase|hive_)", target["expr"]), target["expr"]


def test_ids_and_titles_of_panels_are_unique_and_none_covers_another() -> None:
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    assert len({(panel["title"], panel["type"]) for panel in PANELS}) == len(PANELS)
    for panel in PANELS:
        place = panel["gridPos"]
        assert 0 <= place["x"] <= 24 - place["w"], panel["title"]
    for one, other in itertools.combinations((panel["gridPos"] for panel in PANELS), 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        apart = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or apart, (one, other)


def test_the_dashboard_asks_for_its_data_source() -> None:
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert "id" not in DASHBOARD, "an import makes a new one"
    for panel in PANELS:
        sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
        assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in sources)


# -- the text --------------------------------------------------------------------------------------------------------


def test_both_formats_are_read_by_a_strict_reader() -> None:
    text, content_type = FULL.encode("text/plain")
    assert content_type.startswith("text/plain; version=0.0.4")
    families = {family.name: family for family in parser.text_string_to_metric_families(text.decode())}
    assert families["hive_store_up"].documentation
    text, content_type = FULL.encode("application/openmetrics-text;version=1.0.0")
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    strictly = openmetrics_parser.text_string_to_metric_families(text.decode())  # type: ignore[no-untyped-call]
    open_families = {family.name for family in strictly}
    assert {name.removesuffix("_total").removesuffix("_info") for name in shown()} == open_families


def test_while_redis_is_away_only_what_the_process_knows_is_shown() -> None:
    """A counter that fell to 0 would look like a restart."""
    alone = Scrape(figures(), None, None, None)
    assert value(alone, "hive_store_up") == 0
    names = {sample.name for sample in samples(alone)}
    assert not {name for name in names if name.startswith(("hive_download", "hive_bytes", "hive_workers", "hive_disk"))}
    assert value(alone, "hive_replica_streams", replica="host.1.abcd", kind="one") == 7


def test_the_classes_of_the_queue_wait_end_with_all_attempts() -> None:
    counters = {
        "claims": 10,
        "queue_wait_ms": 4500,
        "queue_wait_le_1": 4,
        "queue_wait_le_5": 7,
        "queue_wait_le_3600": 9,
    }
    scrape = Scrape(figures(), fleet(counters=counters), None, None)
    assert value(scrape, "hive_queue_wait_seconds_bucket", le="1.0") == 4
    assert value(scrape, "hive_queue_wait_seconds_bucket", le="+Inf") == 10
    assert value(scrape, "hive_queue_wait_seconds_count") == 10
    assert value(scrape, "hive_queue_wait_seconds_sum") == 4.5


def test_faults_are_shown_before_the_first_one_and_a_new_code_with_it() -> None:
    scrape = Scrape(figures(), fleet(counters={"fault_DISK_FULL": 2, "fault_NEW_ONE": 1}), None, None)
    assert value(scrape, "hive_download_faults_total", code="DISK_FULL") == 2
    assert value(scrape, "hive_download_faults_total", code="CHECKSUM_MISMATCH") == 0
    assert value(scrape, "hive_download_faults_total", code="NEW_ONE") == 1


# -- what is read ----------------------------------------------------------------------------------------------------


def read(store: RedisClient, settings: Settings, own: ReplicaFigures | None = None) -> FleetFigures:
    return read_fleet(store, replica_registry(store), own or figures(), settings)


def test_the_fleet_is_read_as_the_scripts_have_counted_it(
    store: RedisClient, downloads: DownloadContext, settings: Settings
) -> None:
    one, two, three, _ = (create(downloads, name) for name in "abcd")
    assert create(downloads, "a") == one, "a second request joins"
    held = claim(downloads, one)
    downloads.claims.publish(held, 2, downloading(10, bytes_per_second=700))
    downloads.claims.publish(claim(downloads, two), 2, downloading(10, bytes_per_second=50))
    downloads.claims.finish(claim(downloads, three), 2, "failed", failed("DISK_FULL"))
    found = read(store, settings)
    assert (found.queued, found.running, found.paused) == (1, 2, 0)
    assert found.bytes_per_second == 750
    assert found.counters["created"] == 4
    assert found.counters["joined"] == 1
    assert found.counters["claims"] == found.counters["queue_wait_le_5"] == 3
    assert found.counters["fault_DISK_FULL"] == found.counters["ended_failed"] == 1
    downloads.claims.finish(held, 3, "complete", complete(), "/x")
    assert read(store, settings).running == 1


def test_limits_are_those_that_were_set_else_those_of_the_settings(store: RedisClient, settings: Settings) -> None:
    given = msgspec.structs.replace(settings, max_bytes_per_second=70_000, max_running=5)
    before = read(store, given)
    assert (before.bandwidth_limit, before.running_limit) == (70_000, 5)
    BandwidthLimit(store, 70_000).write(None)
    store.set(keys.RUNNING_LIMIT, 9)
    after = read(store, given)
    assert (after.bandwidth_limit, after.running_limit) == (0, 9)


def test_workers_are_counted_by_state_without_those_that_fell_silent(store: RedisClient, settings: Settings) -> None:
    registry = worker_registry(store)
    for name, state in (("w1", "idle"), ("w2", "busy"), ("w3", "busy"), ("w4", "busy")):
        registry.beat(WorkerInfo(name=name, host="h", pid=1, version="0", state=state))
    store.delete(keys.worker("w4"))
    assert read(store, settings).workers == {"idle": 1, "busy": 2}


def test_replicas_show_each_other_and_forget_the_dead(store: RedisClient, settings: Settings) -> None:
    replica_registry(store).beat(figures("host.2.aaaa", frames_sent=9))
    replica_registry(store).beat(figures("host.3.bbbb"))
    store.delete(keys.replica("host.3.bbbb"))
    found = read(store, settings, figures("host.1.cccc", frames_sent=5))
    assert [(seen.name, seen.frames_sent) for seen in found.replicas] == [
        ("host.1.cccc", 5),
        ("host.2.aaaa", 9),
    ]
    assert store.smembers(keys.REPLICAS) == {b"host.1.cccc", b"host.2.aaaa"}
    assert 0 < store.ttl(keys.replica("host.1.cccc")) <= 15


def test_a_counter_never_goes_back_whichever_replica_answers_next(store: RedisClient, settings: Settings) -> None:
    """What one showed fresh, the next one has to know."""
    replica_registry(store).beat(figures("host.1.aaaa", frames_sent=100))
    read(store, settings, figures("host.1.aaaa", frames_sent=190))
    seen_by_other = read(store, settings, figures("host.2.bbbb"))
    assert {replica.name: replica.frames_sent for replica in seen_by_other.replicas}["host.1.aaaa"] == 190


def test_a_replica_of_another_version_with_other_figures_is_left_out(store: RedisClient, settings: Settings) -> None:
    replica_registry(store).beat(figures("host.2.aaaa"))
    store.hdel(keys.replica("host.2.aaaa"), "cpu_s")
    assert len(read(store, settings).replicas) == 1
    assert store.sismember(keys.REPLICAS, "host.2.aaaa"), "it lives, and must not be forgotten"


@pytest.mark.anyio
@pytest.mark.parametrize(("running", "round_trips"), [(0, 1), (1, 2), (60, 2)])
async def test_a_scrape_costs_two_round_trips_however_much_is_under_way(
    redis_url: str, downloads: DownloadContext, settings: Settings, running: int, round_trips: int
) -> None:
    for number in range(running):
        claim(downloads, create(downloads, f"model-{number}"))
    commands = CommandThread(redis_url)
    try:
        await commands.run(commands.client.ping)
        before = commands.round_trips
        await commands.run(read_fleet, commands.client, replica_registry(commands.client), figures(), settings)
        assert commands.round_trips == before + round_trips
    finally:
        commands.close()


def test_an_event_that_cannot_be_read_has_no_speed(
    store: RedisClient, downloads: DownloadContext, settings: Settings
) -> None:
    download_id = create(downloads)
    claim(downloads, download_id)
    store.hset(keys.record(download_id), "event", b"\xff{")
    assert read(store, settings).bytes_per_second == 0
    store.delete(keys.record(download_id))
    assert read(store, settings).bytes_per_second == 0


# -- the disk --------------------------------------------------------------------------------------------------------


def test_the_room_of_a_store_that_is_not_made_yet_is_that_of_its_filesystem(tmp_path: Path) -> None:
    there = space_of(tmp_path)
    assert there is not None
    assert there.total > there.free > 0
    not_there = space_of(tmp_path / "not" / "there")
    assert not_there is not None
    assert not_there.total == there.total


@pytest.mark.anyio
async def test_a_filesystem_that_hangs_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked, go_on = threading.Semaphore(0), threading.Event()

    def hang(path: Path) -> DiskSpace:
        asked.release()
        go_on.wait(20)
        return DiskSpace(1, 2)

    monkeypatch.setattr(space, "space_of", hang)
    monkeypatch.setattr(space, "ANSWER_TIMEOUT_S", 0.05)
    asks = Disk(tmp_path)
    try:
        async with asyncio.timeout(60):
            assert [await asks.space() for _ in range(3)] == [None, None, None]
        assert asked.acquire(timeout=60)
        assert not asked.acquire(blocking=False), "one thread at most hangs there"
    finally:
        go_on.set()
    async with asyncio.timeout(60):
        while await asks.space() is None:
            pass


def test_a_counter_that_is_no_number_hides_none_of_the_others(store: RedisClient, settings: Settings) -> None:
    store.hset(keys.METRICS, mapping={"created": 3, "joined": "many", b"\xff": 1})
    counters = read_fleet(store, replica_registry(store), figures(), settings).counters
    assert counters["created"] == 3
    assert "joined" not in counters


@pytest.mark.anyio
async def test_whoever_comes_while_an_answer_is_on_its_way_takes_it_from_nobody(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    others: list[asyncio.Task[DiskSpace | None]] = []
    disk._asking = asyncio.get_running_loop().create_future()
    # Before the first one waits: it runs before that one is woken.
    disk._asking.add_done_callback(lambda _: others.append(asyncio.ensure_future(disk.space())))
    first = asyncio.create_task(disk.space())
    await asyncio.sleep(0)
    disk._asking.set_result(DiskSpace(1, 2))
    assert await first == DiskSpace(1, 2)
    found = await others[0]
    assert found is not None, "it has asked for itself"
    total = space_of(tmp_path)
    assert total is not None
    assert found.total == total.total  # what is free changes while others work
