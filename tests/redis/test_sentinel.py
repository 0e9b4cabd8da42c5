"""Where the primary is, asked of real Sentinels: which one is asked, what is said when none knows, and over TLS."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hive.net.redis_url import parse_redis_url
from hive.redis import probe as redis_probe
from hive.redis.client import RedisError, connect
from hive.redis.errors import ConnectError
from hive.redis.sentinel import SENTINEL_TIMEOUT_S, Sentinels, _place, said_in
from hive.settings import Settings, SettingsError
from hive.streams.pubsub import Subscription
from tests.support.ports import free_port
from tests.support.redis_servers import PASSWORD, RedisServer, redis_server, speaks_tls
from tests.support.tls import Authority
from tests.support.waiting import wait_for, wait_for_async

ROOT = Path(__file__).parents[2]
WRITES = "return redis.call('SET', KEYS[1], 1)"
ENCODED, OTHER = PASSWORD.replace("#", "%23"), "sentinels-pass"


def watching(server: RedisServer) -> tuple[str, ...]:
    return (
        f"sentinel monitor mymaster 127.0.0.1 {server.port} 1",
        f'sentinel auth-pass mymaster "{PASSWORD}"',
        "sentinel down-after-milliseconds mymaster 60000",
    )


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[RedisServer, RedisServer]]:
    """A primary with a password, and one Sentinel with another."""
    with redis_server(tmp_path, password=PASSWORD) as primary:
        lines = watching(primary)
        with redis_server(tmp_path, sentinel=True, password=OTHER, lines=lines) as sentinel:
            yield primary, sentinel


def url(*ports: int, name: str = "mymaster", options: str = f"?sentinel_password={OTHER}", more: str = "") -> str:
    places = ",".join(f"127.0.0.1:{port}" for port in ports)
    return f"redis+sentinel://:{ENCODED}@{places}/{name}/0{options}{more}"


def report(address: str) -> None:
    redis_probe.report(Settings.from_env({"REDIS_URL": address}))


def test_the_way_to_the_primary_goes_by_a_sentinel_that_answers(pair: tuple[RedisServer, RedisServer]) -> None:
    primary, sentinel = pair
    with socket.create_server(("127.0.0.1", 0)) as silent:
        dead, mute = free_port(), int(silent.getsockname()[1])
        address = parse_redis_url(url(dead, mute, sentinel.port))
        sentinels = Sentinels(address)
        began_s = time.monotonic()
        assert sentinels.primary() == ("127.0.0.1", primary.port)
        assert time.monotonic() - began_s >= SENTINEL_TIMEOUT_S, "the mute one was waited for"
        silent.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                silent.accept()[0].close()
        for _ in range(3):
            assert sentinels.primary() == ("127.0.0.1", primary.port)
        with pytest.raises(BlockingIOError):  # the one that answered comes first
            silent.accept()
        with connect(address) as client:
            assert client.set("key", 1)
        report(url(dead, sentinel.port))


@pytest.mark.parametrize(
    ("options", "name", "said"),
    [
        ("", "mymaster", r"\(SENTINEL_AUTH\)\. Theirs are sentinel_username and sentinel_password"),
        ("?sentinel_password=wrong", "mymaster", r"\(SENTINEL_AUTH\)"),
        (f"?sentinel_username=nobody&sentinel_password={OTHER}", "mymaster", r"\(SENTINEL_AUTH\)"),
        (f"?sentinel_password={OTHER}", "another", r"\(SENTINEL_UNKNOWN_PRIMARY\)"),
    ],
)
def test_what_nobody_but_the_operator_can_mend_ends_the_start(
    pair: tuple[RedisServer, RedisServer], options: str, name: str, said: str
) -> None:
    with pytest.raises(SettingsError, match=said) as refused:
        report(url(pair[1].port, options=options, name=name))
    for secret in (PASSWORD, ENCODED, OTHER, "wrong"):
        assert secret not in str(refused.value)


def test_ports_of_redis_and_of_sentinels_that_are_mixed_up_are_told_apart(
    pair: tuple[RedisServer, RedisServer],
) -> None:
    primary, sentinel = pair
    with pytest.raises(SettingsError, match=r"\(NOT_SENTINEL\)\. Name the Sentinels' port"):
        report(url(primary.port))
    with pytest.raises(SettingsError, match=r"\(NOT_SENTINEL\)"):
        report(url(primary.port, options=""))
    report(url(primary.port, sentinel.port))  # one that is right is enough
    with pytest.raises(SettingsError, match=r"\(TLS_NOT_SPOKEN\)"):
        report(url(sentinel.port).replace("redis+", "rediss+"))
    for database in (0, 1):
        with pytest.raises(SettingsError, match=r"\(SENTINEL\)\. Begin REDIS_URL with redis\+sentinel://"):
            report(f"redis://:{OTHER}@127.0.0.1:{sentinel.port}/{database}")


def test_a_user_of_the_sentinels_needs_one_right(pair: tuple[RedisServer, RedisServer]) -> None:
    """The documented one."""
    (rights,) = re.findall(r"ACL SETUSER hive on >PASSWORD (.*)", (ROOT / "docs" / "redis.md").read_text())
    with pair[1].client() as admin:
        admin.execute_command("ACL", "SETUSER", "limited", "on", ">limited-pass", *rights.split())
        report(url(pair[1].port, options="?sentinel_username=limited&sentinel_password=limited-pass"))
        assert admin.execute_command("ACL", "LOG") == []


def test_the_password_of_redis_is_not_that_of_the_sentinels(pair: tuple[RedisServer, RedisServer]) -> None:
    address = url(pair[1].port).replace(ENCODED, "wrong")
    with pytest.raises(SettingsError, match=r"\(WRONGPASS\)"):
        report(address)


def test_sentinels_that_are_away_are_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    report(url(free_port(), free_port()))
    (record,) = caplog.records
    assert record.getMessage() == "Redis refuses for now; waiting for it"
    assert "SENTINEL_AWAY" in getattr(record, "fields", {})["reason"]


def test_a_sentinel_that_names_a_replica_is_not_believed(tmp_path: Path, pair: tuple[RedisServer, RedisServer]) -> None:
    """It was cut off while another server became the primary."""
    primary, knows = pair
    follows = (f'masterauth "{PASSWORD}"', f"replicaof 127.0.0.1 {primary.port}")
    with contextlib.ExitStack() as stack:
        replica = stack.enter_context(redis_server(tmp_path, password=PASSWORD, lines=follows))
        # A Sentinel asks a replica who its primary is, and corrects itself: this one may not log in.
        lines = (f"sentinel monitor mymaster 127.0.0.1 {replica.port} 1",)
        stale = stack.enter_context(redis_server(tmp_path, sentinel=True, password=OTHER, lines=lines))
        with connect(url(stale.port), retries=0) as client, pytest.raises(ConnectError, match="SENTINEL_STALE"):
            client.ping()
        with connect(url(stale.port, knows.port)) as client:
            wait_for(lambda: client.set("key", 1))
        asyncio.run(hears(url(stale.port, knows.port)))


async def hears(address: str) -> None:
    """A subscription gets through, and what is published is heard."""
    heard: list[bytes] = []
    made = Subscription(address, "hive:events:*", lambda channel, data: heard.append(data), lambda: None)
    task = asyncio.create_task(made.run())
    try:
        await wait_for_async(lambda: made.connected)
        with connect(address) as client:
            client.publish("hive:events:{x}", b"1-1 0 {}")
        await wait_for_async(lambda: heard == [b"1-1 0 {}"])
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def test_the_sentinels_speak_tls_too_where_the_url_says_so(tmp_path: Path) -> None:
    if not speaks_tls():
        pytest.skip("redis-server was built without TLS")
    certificate = str(Authority(tmp_path).issue("localhost"))
    ca = str(tmp_path / "ca.pem")
    tls = {
        "tls_cert_file": certificate,
        "tls_key_file": certificate,
        "tls_ca_cert_file": ca,
        "tls_auth_clients": "yes",
        "tls_replication": "yes",
    }
    files = f"&ssl_ca_certs={ca}&ssl_certfile={certificate}&ssl_keyfile={certificate}"
    with redis_server(tmp_path, password=PASSWORD, **tls) as primary:
        lines = watching(primary)
        with redis_server(tmp_path, sentinel=True, password=OTHER, lines=lines, **tls) as sentinel:
            address = url(sentinel.port, more=files).replace("redis+", "rediss+")
            report(address)
            asyncio.run(hears(address))
            with pytest.raises(SettingsError, match=r"\(TLS_UNTRUSTED\)"):
                report(url(sentinel.port).replace("redis+", "rediss+"))


def test_a_connection_on_which_a_server_says_that_it_is_a_replica_is_left(tmp_path: Path) -> None:
    """Without Sentinels too: behind a name that is moved the next connection may find the primary."""
    with redis_server(tmp_path) as server, connect(f"redis://127.0.0.1:{server.port}", max_connections=1) as client:
        first = client.client_id()
        assert client.client_id() == first
        with server.client() as admin:
            admin.replicaof("127.0.0.1", str(free_port()))
            for refused in (["SET", "key", "1"], ["EVAL", WRITES, "1", "key"]):
                before = client.client_id()
                with pytest.raises(RedisError, match="replica"):
                    client.execute_command(*refused)
                assert client.client_id() != before
            admin.replicaof("NO", "ONE")
        assert client.set("key", 1)


def test_no_secret_of_the_address_is_shown() -> None:
    address = parse_redis_url(url(1, 2, options="?sentinel_username=su&sentinel_password=sp"))
    with connect(address) as client:
        shown = f"{address} {address!r} {client!r} {client.connection_pool!r} {Sentinels(address)!r}"
    assert not re.search(rf"{PASSWORD}|{ENCODED}|\bsp\b|\bsu\b", shown)
    assert "mymaster" in shown


def test_the_answer_to_hello_says_whether_it_is_a_primary() -> None:
    sentinels = Sentinels(parse_redis_url(url(1, 2)))
    sentinels.check_role([b"server", b"redis", b"role", b"master", b"modules", []])
    for answer in ([b"role", b"replica"], [b"role", b"slave"], [], [b"server"]):
        with pytest.raises(ConnectError, match="SENTINEL_STALE"):
            sentinels.check_role(answer)


@pytest.mark.parametrize(
    "answer",
    [
        None,
        7,
        b"host",
        [],
        [b"h"],
        [b"", b"1"],
        [b"h", b"x"],
        [b"h", b"9" * 5000],
        [None, None],
        [b"h", 1, 2],
        [[], {}],
    ],
)
def test_an_answer_of_a_sentinel_that_is_none_names_no_primary(answer: object) -> None:
    assert _place(answer) is None


@pytest.mark.parametrize(
    "hello", [None, 7, b"role", [], [b"role"], [b"role", []], [[], b"role", b"role", 7], [b"\xff"]]
)
def test_an_answer_to_hello_that_is_none_is_no_primarys(hello: object) -> None:
    assert said_in(hello, "role") == ""
