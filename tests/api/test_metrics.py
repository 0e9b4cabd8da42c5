"""`GET /metrics` of real server processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from prometheus_client import parser

from hive.downloads.context import DownloadContext
from hive.downloads.registry import WorkerInfo, worker_registry
from hive.processes.embedded_redis import EmbeddedRedis
from hive.redis.client import RedisClient, connect
from tests.support.downloads import claim, complete, create, download_context, downloading, failed
from tests.support.processes import ManyProcesses, Server, children, environment
from tests.support.waiting import wait_for

#: A sample: its name and its labels.
Series = tuple[str, tuple[tuple[str, str], ...]]


def scrape(url: str) -> dict[Series, float]:
    answer = requests.get(f"{url}/metrics", timeout=60)
    assert answer.status_code == 200, answer.text
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parser.text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def total(found: dict[Series, float], name: str, **labels: str) -> float:
    """The sum of the samples of this name with these labels."""
    return sum(
        value for (metric, given), value in found.items() if metric == name and labels.items() <= dict(given).items()
    )


def of_fleet(found: dict[Series, float]) -> dict[Series, float]:
    """What has to be the same at every replica; the disk is written to meanwhile."""
    return {s: v for s, v in found.items() if not s[0].startswith(("hive_replica", "hive_build", "hive_disk"))}


def replicas(found: dict[Series, float]) -> set[str]:
    return {dict(labels)["replica"] for (name, labels) in found if name == "hive_build_info"}


def pids(found: dict[Series, float]) -> set[str]:
    return {name.split(".")[-2] for name in replicas(found)}


@pytest.fixture
def downloads(store: RedisClient) -> DownloadContext:
    """One whose workers no reaper takes for dead."""
    return download_context(store, ended_ttl_s=3600, max_queued=100, lease_s=3600)


@pytest.fixture
def second(api: str, server_env: dict[str, str]) -> Iterator[Server]:
    """Another replica on the same Redis."""
    process = Server(server_env)
    process.wait_until_ready()
    yield process
    assert process.stop() == 0
    assert "Traceback" not in process.output


def make_history(store: RedisClient, downloads: DownloadContext) -> None:
    """A download of every kind, and two workers."""
    running, done, bad = (create(downloads, name) for name in ("running", "done", "bad"))
    create(downloads, "queued")
    create(downloads, "queued")
    downloads.claims.publish(claim(downloads, running), 2, downloading(5, bytes_per_second=1234))
    downloads.claims.finish(claim(downloads, done), 2, "complete", complete(), "/x")
    downloads.claims.finish(claim(downloads, bad), 2, "failed", failed("CHECKSUM_MISMATCH"))
    registry = worker_registry(store)
    registry.beat(WorkerInfo(name="w1", host="h", pid=1, version="0"))
    registry.beat(WorkerInfo(name="w2", host="h", pid=2, version="0", state="busy", download_id=running))


def test_two_replicas_give_the_same_figures_of_the_fleet_and_those_of_each_other(
    api: str, second: Server, store: RedisClient, downloads: DownloadContext
) -> None:
    wait_for(lambda: len(replicas(scrape(api))) == 2)
    make_history(store, downloads)
    one, other = scrape(api), scrape(second.url)
    assert of_fleet(one) == of_fleet(other)
    assert replicas(one) == replicas(other)
    assert total(one, "hive_downloads", state="queued") == 1
    assert total(one, "hive_downloads", state="running") == 1
    assert total(one, "hive_downloads_created_total") == 4
    assert total(one, "hive_downloads_joined_total") == 1
    assert total(one, "hive_downloads_ended_total", state="complete") == 1
    assert total(one, "hive_download_faults_total", code="CHECKSUM_MISMATCH") == 1
    assert total(one, "hive_download_attempts_total") == total(one, "hive_queue_wait_seconds_count") == 3
    assert total(one, "hive_download_speed_bytes_per_second") == 1234
    assert (total(one, "hive_workers", state="idle"), total(one, "hive_workers", state="busy")) == (1, 1)
    assert 0 < total(one, "hive_disk_free_bytes") < total(one, "hive_disk_size_bytes")


def test_streams_stand_under_the_replica_that_serves_them(api: str, second: Server, downloads: DownloadContext) -> None:
    download_id = create(downloads)
    url = f"{second.url}/v1/models/download/progress?id={download_id}"
    with requests.get(url, stream=True, timeout=60) as stream:
        lines = stream.iter_lines()  # held: to drop it would close the connection
        assert next(lines).startswith(b"data: ")
        fresh = scrape(second.url)
        (name,) = [name for name in replicas(fresh) if total(fresh, "hive_replica_streams", replica=name) == 1]
        shown_by_other = scrape(api)
        assert total(shown_by_other, "hive_replica_streams", replica=name, kind="one") == 1, "it knows what was shown"
    wait_for(lambda: total(scrape(second.url), "hive_replica_streams_ended_total", replica=name) == 1)


def test_a_replica_that_ends_in_order_is_gone_at_once(api: str, server_env: dict[str, str]) -> None:
    before = replicas(scrape(api))
    process = Server(server_env)
    wait_for(lambda: len(replicas(scrape(api)) - before) == 1)
    assert process.stop() == 0
    assert replicas(scrape(api)) <= before


def test_processes_behind_one_port_are_all_shown_by_whoever_answers(redis_url: str, tmp_path: Path) -> None:
    server = ManyProcesses(environment(redis_url, tmp_path, HIVE_DRAIN_S="0.2"))
    try:
        processes = {str(pid) for pid in children(server.pid)}
        assert len(processes) == 2
        wait_for(lambda: pids(scrape(server.url)) >= processes)
        for _ in range(10):
            assert pids(scrape(server.url)) >= processes
    finally:
        assert server.stop() == 0


def test_the_format_is_the_one_that_is_asked_for(api: str) -> None:
    plain = requests.get(f"{api}/metrics", timeout=60)
    assert plain.headers["content-type"].startswith("text/plain; version=0.0.4")
    asked = requests.get(f"{api}/metrics", headers={"Accept": "application/openmetrics-text;version=1.0.0"}, timeout=60)
    assert asked.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert asked.text.endswith("# EOF\n")


@pytest.mark.slow
def test_while_redis_is_away_the_replica_answers_with_what_it_knows(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with EmbeddedRedis(tmp_path_factory.mktemp("o")) as redis:
        server = Server(environment(redis.url, tmp_path, HIVE_DRAIN_S="0.2"))
        try:
            server.wait_until_ready()
            with connect(redis.url) as client:
                create(download_context(client, ended_ttl_s=60, max_queued=9, lease_s=6))
            up = scrape(server.url)
            assert (total(up, "hive_store_up"), total(up, "hive_downloads", state="queued")) == (1, 1)
            redis.kill()
            down = wait_for(lambda: found if total(found := scrape(server.url), "hive_store_up") == 0 else None)
            assert replicas(down) == replicas(up)
            assert not {name for name, _ in down if name.startswith("hive_download")}
            redis.launch()
            wait_for(lambda: total(scrape(server.url), "hive_store_up") == 1)
        finally:
            assert server.stop() == 0
        assert "Traceback" not in server.output
