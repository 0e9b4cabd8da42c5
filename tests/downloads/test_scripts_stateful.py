"""The scripts under any order of events: workers that live, die, come back as zombies, and calls that are sent twice.

hypothesis plays creators, owners who join and leave, workers, reapers and cancellers against one download and compares
what was told with what must hold: versions only rise, one end, nothing after it, a zombie changes nothing, a live
download always has a lease or a place in the queue, and its owners are those who have not left. The machine itself is
tested: it must catch scripts with a mistake in them.
"""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any, Literal, get_args

import fakeredis
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hive.downloads.record import AttemptBytes, Claim, Record
from hive.redis.client import RedisClient
from hive.wire import keys
from hive.wire.events import State, Version, parse_message
from hive.wire.jobs import RANK_STEP, RANKS
from tests.support.downloads import complete, download_context, downloading, failed, new
from tests.support.pubsub import pending
from tests.support.stateful import EXAMPLES, MISTAKE_SEED, break_script, play

REAL_EXAMPLES, STEPS = EXAMPLES // 3, 25
#: A mutant is looked for until it is caught, so this costs time only when one escapes.
MUTANT_EXAMPLES = 3000


#: Who may join the download and leave it, in order.
OWNERS = ("alice", "bob", "carol")


class Downloads(RuleBasedStateMachine):
    """One download, three workers, and everybody who may interfere."""

    client: Any = None

    @initialize()
    def begin(self) -> None:
        if type(self).client is None:
            self.redis: Any = fakeredis.FakeRedis()
        else:
            self.redis = type(self).client
            self.redis.flushall()
        self.downloads = download_context(self.redis, ended_ttl_s=3600, max_queued=10, lease_s=60)
        self.pubsub = self.redis.pubsub()
        self.pubsub.psubscribe(keys.DOWNLOAD_CHANNELS.pattern(0))
        self.told: list[tuple[Version, bool, bytes]] = []
        self.id, _ = self.downloads.tracker.create(new())
        self.claims: dict[str, tuple[Claim, int]] = {}
        self.seq = 1
        self.ends = 0
        self.received: dict[int, int] = {}
        #: Who has a share, in the order of their coming; "" is somebody without a key, who made it.
        self.owners = [""]
        self.charged: Counter[str] = Counter()

    def teardown(self) -> None:
        if hasattr(self, "pubsub"):
            self.pubsub.close()
            if type(self).client is None:
                self.redis.close()

    @property
    def record(self) -> Record:
        record = self.downloads.tracker.read(self.id)
        assert record is not None
        return record

    def holder(self, owner: str) -> tuple[Claim, bool]:
        """A worker's claim, and whether it is the present one."""
        claim, fence = self.claims[owner]
        record = self.record
        return claim, record.state == "running" and record.fence == fence

    @rule(owner=st.sampled_from("abc"), twice=st.booleans())
    def claim(self, owner: str, twice: bool) -> None:
        before = self.record
        got = self.downloads.claims.claim(before, owner, owner, downloading(status="resolving"))
        if twice:
            again = self.downloads.claims.claim(before, owner, owner, downloading(status="resolving"))
            assert again == got
        free = before.state == "queued"
        held_by_me = before.state == "running" and owner in self.claims and self.claims[owner][1] == before.fence
        assert (got is not None) == (free or held_by_me)
        if got is not None:
            self.claims[owner] = (got, got.fence)

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), twice=st.booleans(), done=st.integers(0, 100))
    def publish(self, data: st.DataObject, twice: bool, done: int) -> None:
        claim, present = self.holder(data.draw(st.sampled_from(sorted(self.claims))))
        self.seq += 1
        for _ in range(2 if twice else 1):
            assert self.downloads.claims.publish(claim, self.seq, downloading(done)).held == present

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def renew(self, data: st.DataObject) -> None:
        claim, present = self.holder(data.draw(st.sampled_from(sorted(self.claims))))
        assert self.downloads.claims.renew(claim).held == present

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), twice=st.booleans(), well=st.booleans())
    def finish(self, data: st.DataObject, twice: bool, well: bool) -> None:
        claim, present = self.holder(data.draw(st.sampled_from(sorted(self.claims))))
        self.seq += 1
        event = complete(f"/store/{self.seq}") if well else failed(f"CODE_{self.seq}")
        state = "complete" if well else "failed"
        for _ in range(2 if twice else 1):
            assert self.downloads.claims.finish(claim, self.seq, state, event, "/x") == present  # type: ignore[arg-type]
        self.ends += present

    @rule(expired=st.booleans(), only=st.booleans(), twice=st.booleans(), to=st.sampled_from(["queued", "paused"]))
    def release(self, expired: bool, only: bool, twice: bool, to: Literal["queued", "paused"]) -> None:
        before = self.record
        if expired and before.state == "running":
            self.redis.zadd(keys.LEASES, {self.id: 1})
        runs_on = only and not expired and before.state == "running"
        waits = only and before.state != "running"
        allowed = not before.is_terminal and not runs_on and not waits
        got = [
            self.downloads.claims.release(before, downloading(), counts=True, expired_only=only, to=to)
            for _ in range(2 if twice else 1)
        ]
        assert got == [before.attempt + 1 if allowed else None] * len(got)

    @rule(stale=st.booleans())
    def finish_unclaimed(self, stale: bool) -> None:
        before = self.record
        if stale and before.state == "queued":
            self.claim("a", False)
        fresh = self.record.fence == before.fence
        event = failed(f"OUTSIDE_{self.seq}")
        self.seq += 1
        done = self.downloads.claims.finish_unclaimed(before, "cancelled", event)
        assert done == (fresh and not before.is_terminal)
        self.ends += done

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), twice=st.booleans(), received=st.integers(0, 50))
    def count_bytes(self, data: st.DataObject, twice: bool, received: int) -> None:
        name = data.draw(st.sampled_from(sorted(self.claims)))
        claim, present = self.holder(name)
        self.seq += 1
        self.received[claim.fence] = self.received.get(claim.fence, 0) + received * present
        if self.owners[0]:
            self.charged[self.owners[0]] += received * present
        for _ in range(2 if twice else 1):
            self.downloads.claims.publish(claim, self.seq, downloading(), AttemptBytes(self.received[claim.fence]))

    @rule(priority=st.sampled_from(["low", "normal", "high"]), twice=st.booleans())
    def set_priority(self, priority: Literal["low", "normal", "high"], twice: bool) -> None:
        before = self.record
        for _ in range(2 if twice else 1):
            assert self.downloads.tracker.set_priority(before, priority) == (not before.is_terminal)

    @rule(word=st.sampled_from(["yield", "cancel"]))
    def request_control(self, word: str) -> None:
        before = self.record
        left = self.downloads.tracker.request_control(before, word)
        assert left == (before.state == "running" and not (word == "yield" and before.control == "cancel"))
        assert self.record.control == (word if left else before.control)

    @precondition(lambda self: not self.record.is_terminal and self.record.control != "cancel")
    @rule(owner=st.sampled_from(["", *OWNERS]), twice=st.booleans())
    def join(self, owner: str, twice: bool) -> None:
        for _ in range(2 if twice else 1):
            assert self.downloads.tracker.create(new(owner=owner)) == (self.id, "joined")
        if owner not in self.owners:
            self.owners.append(owner)

    @rule(owner=st.sampled_from(["", *OWNERS]))
    def leave(self, owner: str) -> None:
        before = self.record
        expected = "gone" if before.is_terminal or owner not in self.owners else "left" if self.owners[1:] else "last"
        assert self.downloads.tracker.leave(self.id, owner) == expected
        if expected == "left":
            self.owners.remove(owner)
        elif expected == "last":
            assert self.record.control == "cancel"
            assert self.downloads.tracker.create(new(owner="a stranger"), "another")[0] != self.id, "nobody joins it"
            self.redis.set(keys.single_flight("model-a"), self.id)

    @invariant()
    def its_owners_are_those_who_have_not_left(self) -> None:
        if hasattr(self, "downloads"):
            assert self.record.owner_lines.split("\n") == self.owners
            listed = [owner for owner in OWNERS if self.redis.zscore(keys.owner_index(owner), self.id) is not None]
            assert listed == sorted(owner for owner in self.owners if owner)

    @invariant()
    def bytes_are_counted_once(self) -> None:
        if hasattr(self, "downloads"):
            assert self.record.bytes_received == sum(self.received.values())
            charged: Counter[str] = Counter()
            for quota in self.redis.keys("hive:quota:*"):
                charged.update({owner.decode(): int(count) for owner, count in self.redis.hgetall(quota).items()})
            assert charged == +self.charged

    @invariant()
    def the_place_in_the_queue_is_that_of_the_priority(self) -> None:
        if hasattr(self, "downloads") and self.record.state == "queued":
            rank, created_ms = divmod(int(self.redis.zscore(keys.PENDING, self.id)), RANK_STEP)
            assert (rank, created_ms) == (RANKS[self.record.priority], self.record.created_ms)

    @invariant()
    def the_index_is_that_of_the_state(self) -> None:
        if hasattr(self, "downloads"):
            states = [s for s in get_args(State) if self.redis.zscore(keys.state_index(s), self.id) is not None]
            assert states == [self.record.state]

    @rule()
    def create_again(self) -> None:
        live = not self.record.is_terminal
        got, outcome = self.downloads.tracker.create(new())
        if got == self.id and "" not in self.owners:
            self.owners.append("")
        assert (
            (outcome == "joined" and got == self.id) if live else (outcome in ("created", "joined") and got != self.id)
        )

    @invariant()
    def what_was_told_is_in_order_and_ends_once(self) -> None:
        if not hasattr(self, "downloads"):
            return
        at_once = iter(lambda: self.pubsub.get_message(timeout=0), None)  # fakeredis has told when it has answered
        for message in pending(self.pubsub) if type(self).client else at_once:
            if message["type"] == "pmessage" and keys.DOWNLOAD_CHANNELS.id_of(message["channel"], 0) == self.id:
                parsed = parse_message(message["data"])
                assert parsed is not None
                self.told.append(tuple(parsed))  # type: ignore[arg-type]
        versions = [version for version, _, _ in self.told]
        assert all(a < b for a, b in itertools.pairwise(versions)), versions
        terminals = [terminal for _, terminal, _ in self.told]
        assert terminals.count(True) == self.ends <= 1
        assert True not in terminals[:-1]

    @invariant()
    def a_live_download_has_a_lease_or_waits(self) -> None:
        if not hasattr(self, "downloads"):
            return
        leased = self.redis.zscore(keys.LEASES, self.id) is not None
        pending = self.redis.zscore(keys.PENDING, self.id) is not None
        state = self.record.state
        assert (leased, pending) == {"running": (True, False), "queued": (False, True)}.get(state, (False, False))


def test_no_order_of_events_breaks_the_rules() -> None:
    assert play(Downloads, EXAMPLES, STEPS) >= EXAMPLES


def test_nor_on_a_real_server(store: RedisClient) -> None:
    real = type("RealDownloads", (Downloads,), {"client": store})
    assert play(real, REAL_EXAMPLES, STEPS) >= REAL_EXAMPLES


MUTANTS = {
    "a publish that does not look at the fence": (
        "PUBLISH",
        "if r[1] ~= 'running' or r[2] ~= fence then",
        "if r[1] ~= 'running' then",
    ),
    "an end that does not look at the fence": (
        "FINISH",
        "if r[1] ~= '0' or r[2] ~= fence then",
        "if r[1] ~= '0' then",
    ),
    "an end after the end": ("FINISH", "if r[1] ~= '0' or r[2] ~= fence then", "if r[2] ~= fence then"),
    "a repeated publish that is told again": ("PUBLISH", "if tonumber(seq) > tonumber(r[3]) then", "if true then"),
    "a fence that does not grow": ("RELEASE", "next_fence(record), '1'", "r[2], '1'"),
    "a release that takes from the living": ("RELEASE", "if expired_only == '1' then", "if false then"),
    "an end that leaves the lease": ("FINISH", "redis.call('ZREM', leases, id)", ""),
    "bytes that are counted again": ("PUBLISH", "- tonumber(counted or '0')", ""),
    "a wish that talks over a person": (
        "CONTROL",
        "if word == 'yield' and r[3] and r[3] ~= '' and r[3] ~= 'yield' then return 0 end",
        "",
    ),
    "a priority without its place": (
        "PRIORITY",
        "if r[6] ~= priority and redis.call('ZSCORE', pending, id) then",
        "if false then",
    ),
    "a place by the time of the attempt": (
        "RELEASE",
        "come_back(id, owner, r[15], r[9], r[16] or r[10])",
        "come_back(id, owner, r[15], r[9], now_ms())",
    ),
    "an end that leaves the index": ("FINISH", "index(id, state, r[9])", ""),
    "a joiner who has no share": ("CREATE", "share(under_way, lines, owner, r[4], told)\n    if RANKS", "if RANKS"),
    "an owner who is still listed": ("LEAVE", "redis.call('ZREM', 'hive:owner:' .. owner, id)", ""),
    "a claim by two": ("CLAIM", "if r[1] ~= 'queued' or r[2] ~= attempt then return '' end", ""),
}


@pytest.mark.parametrize("mistake", MUTANTS)
def test_a_mistake_in_a_script_is_caught(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    break_script(monkeypatch, *MUTANTS[mistake])
    with pytest.raises((AssertionError, ExceptionGroup)):
        play(Downloads, MUTANT_EXAMPLES, STEPS, first=MISTAKE_SEED)
