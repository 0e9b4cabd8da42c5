"""Rests of hosts, shared by all processes; tests/flow sees them kept by two workers."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from hive.net.egress import Network
from hive.redis.client import RedisClient, connect
from hive.wire import keys
from hive.wire.refs import parse_ref
from tests.hub import HubServer, SyntheticFile, faults
from tests.support.settings import settings_for
from tests.support.transfer import big, get, holds, source
from tests.support.waiting import wait_for
from workers.fleet import cooldown as cooldown_module
from workers.fleet.cooldown import RedisCooldown
from workers.sources import resolve
from workers.transfer import Control, HostPool, Limits, Location, Xet
from workers.transfer.transport import ExpectedContent, Unusable


def test_a_rest_that_one_process_hears_of_is_known_to_all(store: RedisClient) -> None:
    RedisCooldown(store).set("hub.example", 5)
    other = RedisCooldown(store)
    assert 4.5 < other.remaining_s("hub.example") <= 5
    assert other.remaining_s("cdn.example") == 0.0


def test_a_rest_has_an_end(store: RedisClient) -> None:
    cooldown = RedisCooldown(store)
    cooldown.set("hub.example", 0.05)
    wait_for(lambda: cooldown.remaining_s("hub.example") == 0.0, "the end of the rest")
    wait_for(lambda: not store.exists(keys.cooldown("hub.example")), "Redis has forgotten it")


def test_a_shorter_rest_never_ends_a_longer_one(store: RedisClient) -> None:
    one, other = RedisCooldown(store), RedisCooldown(store)
    one.set("hub.example", 60)
    other.set("hub.example", 1)
    assert other.remaining_s("hub.example") > 50
    assert store.pttl(keys.cooldown("hub.example")) > 50_000


def test_a_rest_is_bounded(store: RedisClient) -> None:
    cooldown = RedisCooldown(store)
    cooldown.set("hub.example", 1e9)
    assert cooldown.remaining_s("hub.example") <= cooldown_module.REST_MAX_S
    cooldown.set("other.example", -5)
    assert cooldown.remaining_s("other.example") == 0.0


def test_redis_is_asked_twice_a_second_at_most(store: RedisClient, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    real = store.pttl

    def pttl(key: str) -> int:
        asked.append(key)
        return int(real(key))

    monkeypatch.setattr(store, "pttl", pttl)
    cooldown = RedisCooldown(store)
    began = time.monotonic()
    for _ in range(1000):
        cooldown.remaining_s("hub.example")
    assert len(asked) <= 1 + (time.monotonic() - began) / cooldown_module.FRESH_S


def test_a_key_without_an_end_is_not_ours(store: RedisClient) -> None:
    store.set(keys.cooldown("hub.example"), "1")
    assert RedisCooldown(store).remaining_s("hub.example") == 0.0


def test_while_redis_is_away_a_process_keeps_to_what_it_knows(tmp_path: Path) -> None:
    with connect(f"unix://{tmp_path}/none.sock", retries=0) as client:
        cooldown = RedisCooldown(client)
        assert cooldown.remaining_s("hub.example") == 0.0
        cooldown.set("hub.example", 5)
        assert cooldown.remaining_s("hub.example") > 4


def test_hosts_are_forgotten_when_there_are_too_many(store: RedisClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cooldown_module, "HOSTS_MAX", 10)
    cooldown = RedisCooldown(store)
    cooldown.set("first.example", 60)
    for number in range(100):
        cooldown.remaining_s(f"h{number}.example")
    assert len(cooldown._known) <= 10
    assert cooldown.remaining_s("first.example") > 50, "Redis remembers"


def test_the_engine_sets_and_keeps_it(hub: HubServer, store: RedisClient, tmp_path: Path) -> None:
    content = big()
    url = hub.plain("f", content)
    hub.faults.add(faults.too_many_requests(1), "/f", count=1)
    with HostPool(Network(), cooldown=RedisCooldown(store)) as pool:
        get(source(url, content), tmp_path / "f", shared=pool)
    assert holds(tmp_path / "f", content)
    first, second, *_ = [hit.at_s for hit in hub.log]
    assert second - first >= 0.95


def test_no_token_is_in_the_plans_words(hub: HubServer, tmp_path: Path) -> None:
    """Where tokens for Xet are handed out stands in the plan, with the Hub's token: neither is ever shown."""
    hub.create("org/name", {"model.safetensors": SyntheticFile(1000, 1)}, xet=True)
    settings = settings_for(tmp_path, HF_ENDPOINT=hub.endpoint)
    network = Network(user_agent=settings.user_agent)
    plan = resolve(parse_ref("org/name"), settings=settings, network=network, token=hub.token)
    assert plan.xet_token is not None
    assert hub.token in str(dict(plan.xet_token.headers))
    assert hub.token not in repr(plan)


def test_a_silent_xet_store_rests_for_every_worker(hub: HubServer, store: RedisClient) -> None:
    hub.create("org/xet", {"model.safetensors": big(1000)}, xet=True)
    token = Location(f"{hub.endpoint}/api/models/org/xet/xet-read-token/main")
    with HostPool(Network(), cooldown=RedisCooldown(store)) as pool, Xet(lambda: token, pool, Limits()) as one:
        one.grant(Control())
        one.transport("ab" * 32, 1000).fell_silent()
    with HostPool(Network(), cooldown=RedisCooldown(store)) as pool, Xet(lambda: token, pool, Limits()) as other:
        way = other.transport("ab" * 32, 1000)
        with pytest.raises(Unusable, match="silent"):
            way.open(0, 100, ExpectedContent(), Control())
