"""What one key or address may take: how often it may ask, and how much it may have open at a time."""

from __future__ import annotations

from typing import Any

import pytest

from hive.api.json import error_response
from hive.api.limits import MAX_HOLDERS, Rate, RateLimits
from hive.auth.holder import LOOPBACK, holder_of, is_unlimited
from hive.auth.principal import ANONYMOUS, NOBODY, PRINCIPAL, Principal
from hive.errors import TooManyRequests
from hive.settings import Settings
from hive.streams.shares import Shares

ALICE = Principal("k1", "alice", frozenset({"read", "pull"}))
BOB = Principal("k2", "bob", frozenset({"read", "pull"}))


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def asked_by(principal: Principal, address: str = "203.0.113.7", path: str = "/v1/downloads") -> dict[str, Any]:
    return {"type": "http", "method": "GET", "path": path, "client": (address, 1), PRINCIPAL: principal}


def allowed(limits: RateLimits, scope: dict[str, Any], tries: int) -> int:
    """How many of so many requests at one moment pass."""
    passed = 0
    for _ in range(tries):
        try:
            limits.admit(scope)
            passed += 1
        except TooManyRequests:
            pass
    return passed


def test_a_rate_is_kept_after_what_may_come_at_once() -> None:
    clock = Clock()
    rate = Rate(10, 20, clock)
    assert [rate.wait_s("a") for _ in range(20)] == [0.0] * 20
    assert rate.wait_s("a") == pytest.approx(0.1)
    assert rate.wait_s("b") == 0.0, "others have a share of their own"
    clock.now_s += 1
    assert [rate.wait_s("a") > 0 for _ in range(11)] == [False] * 10 + [True]
    clock.now_s += 3600
    assert sum(rate.wait_s("a") == 0 for _ in range(100)) == 20, "silence earns no more than the burst"
    assert Rate(0, 0, clock).wait_s("a") == 0.0


def test_the_memory_of_a_rate_is_bounded() -> None:
    rate = Rate(1, 1, Clock())
    for number in range(MAX_HOLDERS + 100):
        assert rate.wait_s(str(number)) == 0.0
    assert len(rate._due_s) == MAX_HOLDERS
    assert rate.wait_s(str(MAX_HOLDERS + 99)) > 0, "who asked last is remembered"


@pytest.mark.parametrize(
    ("principal", "address", "expected"),
    [
        (ALICE, "203.0.113.7", 100),
        (ALICE, "127.0.0.1", 100),
        (NOBODY, "203.0.113.7", 100),
        (NOBODY, "127.0.0.1", 100),
        (ANONYMOUS, "203.0.113.7", 100),
        (ANONYMOUS, "10.0.0.1", 100),
        (ANONYMOUS, "127.0.0.1", 1000),
        (ANONYMOUS, "127.9.9.9", 1000),
        (ANONYMOUS, "::1", 1000),
        (ANONYMOUS, "::ffff:127.0.0.1", 1000),
    ],
)
def test_everybody_has_a_rate_but_this_machine_without_keys(principal: Principal, address: str, expected: int) -> None:
    limits = RateLimits(Settings.from_env({}), Clock())
    assert allowed(limits, asked_by(principal, address), 1000) == expected


def test_keys_and_addresses_are_counted_apart_and_a_key_wherever_it_is_used() -> None:
    limits = RateLimits(Settings.from_env({"HIVE_MAX_REQUESTS_PER_SECOND": "1"}), Clock())
    assert allowed(limits, asked_by(ALICE, "203.0.113.1"), 10) == 2
    assert allowed(limits, asked_by(ALICE, "203.0.113.2"), 10) == 0
    assert allowed(limits, asked_by(BOB, "203.0.113.1"), 10) == 2
    assert allowed(limits, asked_by(ANONYMOUS, "203.0.113.1"), 10) == 10


def test_a_network_of_ipv6_is_one_address_and_probes_are_always_answered() -> None:
    limits = RateLimits(Settings.from_env({"HIVE_MAX_ANONYMOUS_REQUESTS_PER_SECOND": "0.1"}), Clock())
    passed = [allowed(limits, asked_by(NOBODY, f"2001:db8::{n:x}"), 1) for n in range(1, 50)]
    assert sum(passed) == 1
    assert allowed(limits, asked_by(NOBODY, "2001:db8:0:1::1"), 1) == 1
    assert allowed(limits, asked_by(NOBODY, "2001:db8::1", "/readyz"), 100) == 100


def test_the_page_loads_many_times_beside_the_requests_of_an_address() -> None:
    limits = RateLimits(Settings.from_env({}), Clock())
    assert allowed(limits, asked_by(NOBODY, "203.0.113.7", "/page/main.js"), 3000) == 2000
    assert allowed(limits, asked_by(NOBODY, "203.0.113.7"), 1000) == 100


def test_requests_for_models_and_webhooks_have_rates_of_their_own() -> None:
    clock = Clock()
    limits = RateLimits(Settings.from_env({}), clock)
    for number in range(60):
        limits.admit_ask(asked_by(ALICE), webhook=number < 30)
    with pytest.raises(TooManyRequests) as refused:
        limits.admit_ask(asked_by(ALICE))
    answer = error_response(refused.value)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
    assert b"TOO_MANY_REQUESTS" in answer.body
    clock.now_s += 1
    limits.admit_ask(asked_by(ALICE))
    for _ in range(30):
        limits.admit_ask(asked_by(BOB), webhook=True)
    with pytest.raises(TooManyRequests, match=r"webhooks .* 2 s"):
        limits.admit_ask(asked_by(BOB), webhook=True)
    limits.admit_ask(asked_by(BOB))
    for _ in range(1000):
        limits.admit_ask(asked_by(ANONYMOUS, "127.0.0.1"), webhook=True)
    few = RateLimits(Settings.from_env({"HIVE_MAX_WEBHOOKS_PER_MINUTE": "2"}), clock)
    for _ in range(2):
        few.admit_ask(asked_by(BOB), webhook=True)
    with pytest.raises(TooManyRequests, match="webhooks"):
        few.admit_ask(asked_by(BOB), webhook=True)


@pytest.mark.parametrize("variable", ["REQUESTS_PER_SECOND", "ANONYMOUS_REQUESTS_PER_SECOND"])
def test_a_rate_of_zero_is_none(variable: str) -> None:
    limits = RateLimits(Settings.from_env({f"HIVE_MAX_{variable}": "0"}), Clock())
    assert allowed(limits, asked_by(ALICE if "ANON" not in variable else NOBODY), 10_000) == 10_000


def test_a_holder_has_its_share_and_gets_it_back() -> None:
    shares = Shares(2)
    assert [shares.take("a") for _ in range(3)] == [True, True, False]
    assert shares.take("b")
    assert shares.take("a", times=2)
    assert shares.take("")
    for _ in range(3):
        shares.give_back("a")
    shares.give_back("b")
    assert not shares._open
    with shares.holding(asked_by(ALICE)), shares.holding(asked_by(ALICE)):
        with pytest.raises(TooManyRequests), shares.holding(asked_by(ALICE)):
            pass
        with shares.holding(asked_by(BOB)), shares.holding(asked_by(ANONYMOUS, "::1")):
            pass
    assert not shares._open


def test_who_a_limit_counts_for() -> None:
    assert holder_of(asked_by(ALICE, "127.0.0.1")) == "key:k1"
    assert holder_of(asked_by(NOBODY, "::ffff:203.0.113.7")) == holder_of(asked_by(NOBODY)) == "address:203.0.113.7"
    assert holder_of({PRINCIPAL: ANONYMOUS, "client": None}) == LOOPBACK
    assert holder_of(asked_by(NOBODY, "fe80::1%eth0")) == holder_of(asked_by(NOBODY, "fe80::2%eth0"))
    assert is_unlimited(asked_by(ANONYMOUS, "127.0.0.1"))
    assert not is_unlimited(asked_by(NOBODY, "127.0.0.1"))
