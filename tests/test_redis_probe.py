"""What Redis lets hive do is asked at the start, and what is missing is named there."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hive import redis_probe
from hive.downloads.reaper import Reaper
from hive.processes.embedded_redis import find_server
from hive.redis_client import RedisClient, connect
from hive.settings import Settings, SettingsError
from tests.support.downloads import claim, complete, create, download_context
from tests.support.refusing_redis import RefusingRedis
from tests.support.waiting import wait_for

NAME, PASSWORD = "limited", "a-password-of-tests"


def documented_rights() -> list[str]:
    text = (Path(__file__).parents[1] / "docs" / "settings.md").read_text()
    found = re.search(r"ACL SETUSER hive on >PASSWORD (.*)", text)
    assert found is not None
    return found[1].split()


@pytest.fixture
def user(store: RedisClient, redis_url: str) -> Iterator[Callable[..., str]]:
    """The address of Redis for a user with these rights."""

    def make(*rights: str) -> str:
        store.execute_command("ACL", "SETUSER", NAME, "reset", "on", f">{PASSWORD}", *rights)
        return redis_url.replace("unix://", f"unix://{NAME}:{PASSWORD}@")

    yield make
    store.execute_command("ACL", "DELUSER", NAME)


def report(url: str, caplog: pytest.LogCaptureFixture) -> list[tuple[str, dict[str, object]]]:
    redis_probe.report(Settings.from_env({"REDIS_URL": url}))
    lines = [(record.getMessage(), getattr(record, "fields", {})) for record in caplog.records]
    assert PASSWORD not in str(lines)
    return lines


def test_a_redis_as_it_should_be_is_not_talked_about(redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    assert report(redis_url, caplog) == []


def test_the_documented_rights_are_enough(user: Callable[..., str], caplog: pytest.LogCaptureFixture) -> None:
    url = user(*documented_rights())
    assert report(url, caplog) == []
    with connect(url) as client:
        downloads = download_context(client)
        download_id = create(downloads)
        downloads.queue.enqueue(download_id, 1)
        held = claim(downloads, download_id)
        assert downloads.claims.renew(held).held
        assert downloads.claims.finish(held, 2, "complete", complete(), "/x")
        Reaper(downloads).sweep()


@pytest.mark.parametrize(
    ("taken", "named"),
    [
        (["resetchannels"], ["publish (&hive:*)", "subscribe (&hive:events:*)"]),
        (["resetkeys", "~rq:*"], ["read keys (~hive:*)", "write keys (~hive:*)"]),
        (["resetkeys", "~hive:*"], ["use RQ's keys (~rq:*)"]),
        (["-time"], ["run scripts (+eval, +evalsha, +script|load, and +time inside)"]),
        (["-@scripting"], ["run scripts (+eval, +evalsha, +script|load, and +time inside)"]),
    ],
)
def test_what_is_missing_is_named_together(
    user: Callable[..., str], caplog: pytest.LogCaptureFixture, taken: list[str], named: list[str]
) -> None:
    ((message, fields),) = report(user(*documented_rights(), *taken), caplog)
    assert message == "the user of Redis may not do all that hive needs"
    assert fields["missing"] == "; ".join(named)


def test_without_info_the_reaper_goes_on(user: Callable[..., str], caplog: pytest.LogCaptureFixture) -> None:
    url = user(*documented_rights(), "-info")
    assert [message for message, _ in report(url, caplog)] == ["INFO is refused: hive does not see when Redis restarts"]
    with connect(url) as client:
        downloads = download_context(client, lease_s=0.2)
        download_id = create(downloads)
        claim(downloads, download_id)
        reaper = Reaper(downloads)

        def is_queued_again() -> bool:
            reaper.sweep()
            return downloads.admission.pending() == [download_id]

        wait_for(is_queued_again)


def test_a_wrong_password_is_a_refusal_and_not_an_absence(
    user: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    url = user(*documented_rights()).replace(PASSWORD, "another")
    ((message, fields),) = report(url, caplog)
    assert message == "Redis cannot be used"
    assert "WRONGPASS" in str(fields["reason"])
    assert "another" not in str(fields)


def test_a_redis_that_is_away_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    ((message, fields),) = report("unix:///nonexistent/redis.sock", caplog)
    assert message == "Redis is away; waiting for it"
    assert fields["redis"] == "unix:/nonexistent/redis.sock"


def test_a_policy_that_throws_records_away_is_a_warning(
    store: RedisClient, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    store.config_set("maxmemory-policy", "allkeys-lru")
    try:
        ((_, fields),) = report(redis_url, caplog)
    finally:
        store.config_set("maxmemory-policy", "noeviction")
    assert "allkeys-lru" in str(fields["reason"])


def test_an_old_server_and_a_replica_are_warnings() -> None:
    assert list(redis_probe.oddities({"redis_version": "6.2.14", "role": "master"})) == []
    assert list(redis_probe.oddities({"redis_version": "7.2.4", "valkey_version": "9.0.0"})) == []
    (old,) = redis_probe.oddities({"redis_version": "5.0.7"})
    assert "5.0.7" in old
    (replica,) = redis_probe.oddities({"redis_version": "7.0.0", "role": "slave"})
    assert "replica" in replica


@pytest.fixture
def cluster() -> Iterator[str]:
    """A server of a cluster that has no slots yet, which is enough of one."""
    with tempfile.TemporaryDirectory(prefix="hive-") as folder:
        socket = f"{folder}/c.sock"
        command = [
            str(find_server()),
            "--port",
            "0",
            "--unixsocket",
            socket,
            "--cluster-enabled",
            "yes",
            "--dir",
            folder,
        ]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                wait_for(Path(socket).exists)
                yield f"unix://{socket}"
            finally:
                process.kill()


@pytest.mark.parametrize("database", ["", "?db=1"])
def test_a_cluster_is_refused_with_a_sentence(cluster: str, database: str) -> None:
    settings = Settings.from_env({"REDIS_URL": cluster + database})
    with pytest.raises(SettingsError, match=r"it is a Redis Cluster\. hive needs one server"):
        redis_probe.report(settings)


def test_a_cluster_that_works_is_refused_too(redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    proxy = RefusingRedis(redis_url.removeprefix("unix://"))
    try:
        proxy.refuse("MOVED 3999 127.0.0.1:6381", "GET")
        with pytest.raises(SettingsError, match="Redis Cluster"):
            report(proxy.url, caplog)
    finally:
        proxy.close()
