"""Turns under any order of events: three owners ask, join, leave, cancel, pause and change priorities, workers take and
give back, and versions of hive without turns interfere.

hypothesis plays them against one queue, and looks at what must hold: what waits is in the queue once, with its priority
and in its owner's line; one owner's are in the order of their coming; and no owner's k-th comes behind more than k + 1
of any other's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.errors import Flaky
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hive.downloads.record import Record
from hive.downloads.tracker import Side
from hive.redis.client import RedisClient
from hive.wire import keys
from hive.wire.jobs import RANK_STEP, RANKS, Priority
from tests.support.downloads import claim, download_context, downloading, failed, new, next_millisecond, read
from tests.support.stateful import EXAMPLES, MISTAKE_SEED, break_script, play

STEPS, MUTANT_EXAMPLES = 40, 2000
OWNERS = ("alice", "bob", "carol")
PRIORITIES: tuple[Priority, ...] = ("normal", "low")


class Turns(RuleBasedStateMachine):
    """The downloads of three owners."""

    client: Any = None

    @initialize()
    def begin(self) -> None:
        self.redis: Any = type(self).client
        self.redis.flushall()
        self.downloads = download_context(self.redis, max_queued=1000, max_queued_per_key=0)
        self.ids: list[str] = []

    def record(self, data: st.DataObject, *states: str) -> Record | None:
        """One of those in these states."""
        found = [r for r in self.downloads.tracker.read_all(self.ids) if r.state in states]
        return data.draw(st.sampled_from(found)) if found else None

    @rule(owner=st.sampled_from(OWNERS), priority=st.sampled_from(PRIORITIES), count=st.integers(1, 4))
    def ask(self, owner: str, priority: Priority, count: int) -> None:
        for _ in range(count):
            next_millisecond()
            made = self.downloads.tracker.create(new(f"m{len(self.ids)}", owner=owner, priority=priority))
            assert made[1] == "created"
            self.ids.append(made[0])

    @rule()
    def take(self) -> None:
        for download_id in self.downloads.admission.pending(1):
            claim(self.downloads, download_id)

    @rule(data=st.data(), behind=st.booleans())
    def give_back(self, data: st.DataObject, behind: bool) -> None:
        if (record := self.record(data, "running")) is not None:
            next_millisecond()
            assert self.downloads.claims.release(record, downloading(), counts=False, behind=behind)

    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        if (record := self.record(data, "running", "queued", "paused")) is not None:
            assert self.downloads.claims.finish_unclaimed(record, "cancelled", failed("CANCELLED"))

    @rule(data=st.data())
    def pause(self, data: st.DataObject) -> None:
        if (record := self.record(data, "running", "queued")) is not None:
            assert self.downloads.claims.release(record, downloading(), counts=False, to="paused")

    @rule(data=st.data())
    def resume(self, data: st.DataObject) -> None:
        if (record := self.record(data, "paused")) is not None:
            assert self.downloads.claims.release(record, downloading(), counts=False)

    @rule(data=st.data(), priority=st.sampled_from(PRIORITIES))
    def set_priority(self, data: st.DataObject, priority: Priority) -> None:
        if (record := self.record(data, "running", "queued", "paused")) is not None:
            assert self.downloads.tracker.set_priority(record, priority)

    @rule(data=st.data(), side=st.sampled_from(("before", "behind")))
    def move(self, data: st.DataObject, side: Side) -> None:
        record, other = self.record(data, "queued"), self.record(data, "queued")
        if record is not None and other is not None:
            assert self.downloads.tracker.move(record, other, side) == (None if record == other else True)

    @rule(data=st.data(), owner=st.sampled_from(OWNERS), priority=st.sampled_from(PRIORITIES))
    def join(self, data: st.DataObject, owner: str, priority: Priority) -> None:
        if (record := self.record(data, "running", "queued", "paused")) is not None:
            next_millisecond()
            joined = self.downloads.tracker.create(new(record.dedup_key, owner=owner, priority=priority))
            assert joined in ((record.id, "joined"), (joined[0], "created"))
            if joined[1] == "created":  # the last owner was ending it
                self.ids.append(joined[0])

    @precondition(lambda self: self.ids)
    @rule(data=st.data(), owner=st.sampled_from(OWNERS))
    def leave(self, data: st.DataObject, owner: str) -> None:
        record = self.record(data, "running", "queued", "paused")
        if record is not None and self.downloads.tracker.leave(record.id, owner) == "last":
            assert self.downloads.claims.finish_unclaimed(
                read(self.downloads, record.id), "cancelled", failed("CANCELLED")
            )

    def line_of(self, download_id: str) -> str:
        """For whom it counts."""
        line, owners = self.redis.hmget(keys.record(download_id), "line", "owners")
        return str((owners.split(b"\n")[0] if line is None else line).decode())

    @invariant()
    def what_waits_is_in_the_queue_with_its_priority_and_in_one_line(self) -> None:
        if not hasattr(self, "downloads"):
            return
        waiting = {r.id: r for r in self.downloads.tracker.read_all(self.ids) if r.state == "queued"}
        order = self.downloads.admission.pending()
        assert sorted(order) == sorted(waiting)
        for download_id, record in waiting.items():
            assert int(self.redis.zscore(keys.PENDING, download_id)) // RANK_STEP == RANKS[record.priority]
        for owner in OWNERS:
            line = {member.decode() for member in self.redis.zrange(keys.owner_line(owner), 0, -1)}
            assert line == {i for i in waiting if self.line_of(i) == owner}

    @invariant()
    def an_owners_are_in_order_and_nobody_waits_for_more_than_a_turn_a_round(self) -> None:
        if not hasattr(self, "downloads"):
            return
        for priority in PRIORITIES:
            passed: Counter[str] = Counter()
            ages: dict[str, float] = {}
            for download_id in self.downloads.admission.pending():
                if read(self.downloads, download_id).priority != priority or self.had_its_turn(download_id):
                    continue
                owner = self.line_of(download_id)
                age = self.redis.zscore(keys.owner_line(owner), download_id)
                assert age > ages.get(owner, 0), (owner, age, ages)
                ages[owner] = age
                most = passed[owner] + 2
                assert all(count <= most for other, count in passed.items() if other != owner), (owner, passed)
                passed[owner] += 1

    def had_its_turn(self, download_id: str) -> bool:
        """Whether a worker gave it back, so that it keeps its place."""
        turn, score = self.redis.hget(keys.record(download_id), "turn"), self.redis.zscore(keys.PENDING, download_id)
        return turn is not None and int(turn) == int(score)


def turns_in(client: RedisClient) -> type[Turns]:
    return type("TurnsHere", (Turns,), {"client": client})


def test_no_order_of_events_breaks_the_turns(store: RedisClient) -> None:
    assert play(turns_in(store), EXAMPLES, STEPS) >= EXAMPLES


MUTANTS: dict[str, tuple[str, str, str]] = {
    "one owner's without turns": (
        "CREATE",
        "if not score then put(id, next_turn(rank, owner, round, before)) end",
        "if not score then put(id, age) end",
    ),
    "those who were alone are not spread": ("CREATE", "  spread(rank, other)\n", ""),
    "what is resumed is pushed in without a turn": (
        "RELEASE",
        "      if next_score >= score + TURN_MS then return end\n"
        "      score = score + TURN_MS\n"
        "      put(next_id, score)\n",
        "",
    ),
    "a gap that stays": ("FINISH", "      put(next_id, score)\n      score = next_score\n", ""),
    "a claim that stays in the line": (
        "CLAIM",
        "redis.call('ZREM', line_of(owner), id)\n  redis.call('HSET', record, 'turn'",
        "redis.call('HSET', record, 'turn'",
    ),
    "a share that counts for who has left": ("LEAVE", "if waits then enter(id, others[1], r[4], r[5]) end", ""),
}


class Chosen:
    """What stands in for hypothesis where the test knows which download it means."""

    def __init__(self, record: Record) -> None:
        self.record = record

    def draw(self, _: object) -> Record:
        return self.record


class Story:
    """A life of which the test knows the order; the rules of the machine are looked at after each step."""

    def __init__(self, client: RedisClient) -> None:
        self.machine = turns_in(client)()
        self.machine.begin()

    def do(self, rule: str, *, of: int | None = None, **arguments: Any) -> None:
        """Follow a rule, for the download that was made as the `of`-th."""
        if of is not None:
            record = read(self.machine.downloads, self.machine.ids[of])
            arguments["data"] = Chosen(record)
        getattr(self.machine, rule)(**arguments)
        self.machine.what_waits_is_in_the_queue_with_its_priority_and_in_one_line()
        self.machine.an_owners_are_in_order_and_nobody_waits_for_more_than_a_turn_a_round()


def first_ones_end(story: Story) -> None:
    story.do("ask", owner="alice", priority="normal", count=5)
    story.do("ask", owner="bob", priority="normal", count=5)
    for number in range(4):
        story.do("end", of=number)


def paused_ones_come_back(story: Story) -> None:
    story.do("ask", owner="alice", priority="normal", count=5)
    story.do("ask", owner="bob", priority="normal", count=5)
    for number in range(4):
        story.do("pause", of=number)
    for number in range(4):
        story.do("resume", of=number)


def who_asked_first_leaves(story: Story) -> None:
    story.do("ask", owner="alice", priority="normal", count=1)
    story.do("join", of=0, owner="bob", priority="normal")
    story.do("leave", of=0, owner="alice")


#: Mistakes that random orders meet after minutes only.
STORIES: dict[str, Callable[[Story], None]] = {
    "a gap that stays": first_ones_end,
    "what is resumed is pushed in without a turn": paused_ones_come_back,
    "a share that counts for who has left": who_asked_first_leaves,
}


@pytest.mark.parametrize("mistake", [name for name in MUTANTS if name not in STORIES])
def test_a_mistake_in_the_turns_is_caught(mistake: str, store: RedisClient, monkeypatch: pytest.MonkeyPatch) -> None:
    break_script(monkeypatch, *MUTANTS[mistake])
    # Ids and moments are of the run, so hypothesis may not find again what it has found.
    with pytest.raises((AssertionError, ExceptionGroup, Flaky)):
        play(turns_in(store), MUTANT_EXAMPLES, STEPS, first=MISTAKE_SEED)


@pytest.mark.parametrize("mistake", STORIES)
def test_a_rare_mistake_in_the_turns_is_caught(
    mistake: str, store: RedisClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    STORIES[mistake](Story(store))
    break_script(monkeypatch, *MUTANTS[mistake])
    with pytest.raises(AssertionError):
        STORIES[mistake](Story(store))
