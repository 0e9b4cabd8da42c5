"""Turns among owners: somebody who asks for one model does not wait behind somebody else's hundred."""

from __future__ import annotations

import hashlib
import itertools
import time

import pytest

from hive.downloads.context import DownloadContext
from hive.downloads.intents import IntentLog, intent_of
from hive.downloads.record import Claim
from hive.downloads.restore import Restore
from hive.downloads.tracker import Side
from hive.redis.client import RedisClient
from hive.wire import keys
from hive.wire.jobs import RANK_STEP, RANKS, TURN_MS, Priority
from tests.support.downloads import claim, complete, download_context, downloading, failed, new, next_millisecond, read


class Queue:
    """The queue as several people fill it; a download is called by its owner and a number."""

    def __init__(self, store: RedisClient) -> None:
        self.store = store
        self.downloads = download_context(store, max_queued=20_000)
        self.ids: dict[str, str] = {}

    def ask(self, name: str, priority: Priority = "normal", owner: str | None = None) -> str:
        """The id of a new download, or of one that `owner` joins. No two are of one millisecond."""
        owner = name.rstrip("0123456789") if owner is None else owner
        # What is the same to the intent log is a digest.
        asked = new(hashlib.sha256(name.encode()).hexdigest(), owner=owner, priority=priority)
        self.ids[name] = self.downloads.tracker.create(asked)[0]
        next_millisecond()
        return self.ids[name]

    def ask_many(self, owner: str, count: int, first: int = 0) -> list[str]:
        names = [f"{owner}{number}" for number in range(first, first + count)]
        for name in names:
            self.ask(name)
        return names

    @property
    def order(self) -> list[str]:
        """What waits, the next one first."""
        names = {download_id: name for name, download_id in self.ids.items()}
        return [names[download_id] for download_id in self.downloads.admission.pending()]

    def scores(self) -> dict[str, int]:
        return {name: int(self.store.zscore(keys.PENDING, self.ids[name])) for name in self.order}

    def take(self, count: int = 1) -> list[str]:
        """The names of those that workers take next."""
        names = self.order[:count]
        for name in names:
            claim(self.downloads, self.ids[name])
        return names

    def end(self, name: str) -> None:
        record = read(self.downloads, self.ids[name])
        assert self.downloads.claims.finish(
            Claim(record.id, record.dedup_key, record.fence), record.seq + 1, "complete", complete(), "/x"
        )

    def move(self, name: str, side: Side, other: str) -> bool | None:
        one, two = (read(self.downloads, self.ids[each]) for each in (name, other))
        return self.downloads.tracker.move(one, two, side)

    def cancel(self, name: str) -> None:
        record = read(self.downloads, self.ids[name])
        assert self.downloads.claims.finish_unclaimed(record, "cancelled", failed("CANCELLED"))

    def release(self, name: str, **more: object) -> None:
        record = read(self.downloads, self.ids[name])
        assert self.downloads.claims.release(record, downloading(), counts=False, **more)  # type: ignore[arg-type]


@pytest.fixture
def queue(store: RedisClient) -> Queue:
    return Queue(store)


def test_one_model_is_not_behind_anothers_hundred(queue: Queue) -> None:
    queue.ask_many("bob", 100)
    queue.ask("alice0")
    assert queue.order[:3] == ["bob0", "alice0", "bob1"]
    (place,) = queue.downloads.admission.places([queue.ids["alice0"]]).values()
    assert place.ahead == 1


def test_owners_take_turns_and_each_is_served_first_come_first_served(queue: Queue) -> None:
    queue.ask_many("bob", 4)
    queue.ask_many("alice", 3)
    queue.ask_many("carol", 2)
    expected = ["bob0", "alice0", "carol0", "bob1", "alice1", "carol1", "bob2", "alice2", "bob3"]
    assert queue.order == expected
    assert queue.take(9) == expected


def test_priorities_are_stronger_than_turns(queue: Queue) -> None:
    queue.ask_many("bob", 3)
    queue.ask("alice0", "low")
    queue.ask("bob10", "high")
    queue.ask("bob11", "high")
    queue.ask("alice10", "high")
    assert queue.order == ["bob10", "alice10", "bob11", "bob0", "bob1", "bob2", "alice0"]


@pytest.mark.parametrize("owner", ["", "bob"])
def test_without_keys_and_for_one_owner_alone_a_place_is_the_age(queue: Queue, owner: str) -> None:
    for number in range(6):
        queue.ask(f"m{number}", "low" if number == 3 else "normal", owner=owner)
    queue.take(2)
    queue.release("m1")
    queue.release("m4", to="paused")
    queue.release("m4")
    queue.downloads.tracker.set_priority(read(queue.downloads, queue.ids["m5"]), "high")
    queue.cancel("m2")
    made = {name: read(queue.downloads, queue.ids[name]) for name in queue.order}
    assert list(made) == ["m5", "m1", "m4", "m3"]
    assert queue.scores() == {n: RANKS[r.priority] * RANK_STEP + r.created_ms for n, r in made.items()}
    if not owner:
        assert not queue.store.keys("hive:line:*") + queue.store.keys("hive:turns:*"), "and nothing else is kept"


def test_who_holds_all_workers_is_behind_who_holds_none(queue: Queue) -> None:
    queue.ask_many("bob", 12)
    queue.take(2)
    queue.ask_many("alice", 2)
    assert queue.order[:4] == ["alice0", "bob2", "alice1", "bob3"]


def test_that_is_so_also_where_nothing_waited_when_they_asked(queue: Queue) -> None:
    queue.ask_many("bob", 2)
    queue.take(2)
    time_passes(queue)
    queue.ask_many("bob", 3, first=2)
    queue.ask("alice0")
    assert queue.order == ["alice0", "bob2", "bob3", "bob4"]


def time_passes(queue: Queue) -> None:
    """More than some rounds, as if all that is known were of an hour ago."""
    for key in queue.store.keys("hive:turns:*"):
        for member, score in queue.store.zrange(key, 0, -1, withscores=True):
            queue.store.zadd(key, {member: score - 3_600_000})


def test_who_asks_for_one_after_the_other_does_not_pass_by_who_waits(queue: Queue) -> None:
    waiting = queue.ask_many("bob", 6)
    taken = []
    for number in range(6):
        queue.ask(f"alice{number}")
        taken += queue.take(1)
        queue.end(taken[-1])
    assert [name for name in taken if name in waiting] == waiting[:3], taken


def test_turns_are_not_saved_up_by_who_asks_for_nothing(queue: Queue) -> None:
    queue.ask("alice0")
    queue.ask_many("bob", 20)
    queue.take(11)
    queue.ask_many("alice", 5, first=1)
    assert queue.order[:6] == ["alice1", "bob10", "alice2", "bob11", "alice3", "bob12"]


def test_many_who_ask_for_one_each_are_served_first_come_first_served(queue: Queue) -> None:
    queue.ask_many("bob", 5)
    queue.take(1)
    names = [queue.ask(f"{owner}0") and f"{owner}0" for owner in (f"owner-{chr(97 + n)}" for n in range(20))]
    assert queue.order == [*names, "bob1", "bob2", "bob3", "bob4"]


def test_nobody_is_passed_by_more_than_once_a_round_and_owner(queue: Queue) -> None:
    """However often others ask anew, one of bob's is served among four."""
    queue.ask_many("bob", 10)
    taken: list[str] = []
    numbers = itertools.count()
    for _ in range(12):
        for owner in ("alice", "carol", "dave"):
            queue.ask(f"{owner}{next(numbers)}")
        taken += queue.take(1)
    served = [index for index, name in enumerate(taken) if name.startswith("bob")]
    assert served[0] <= 3
    assert all(later - earlier <= 4 for earlier, later in itertools.pairwise(served)), taken


def test_what_waits_moves_up_when_its_owner_takes_others_back(queue: Queue) -> None:
    queue.ask_many("bob", 20)
    queue.ask_many("alice", 10)
    for number in range(1, 18):
        queue.cancel(f"bob{number}") if number % 2 else queue.release(f"bob{number}", to="paused")
    assert queue.order[:7] == ["bob0", "alice0", "bob18", "alice1", "bob19", "alice2", "alice3"]


def test_what_a_worker_gives_back_keeps_its_place(queue: Queue) -> None:
    queue.ask_many("bob", 4)
    queue.ask_many("alice", 4)
    assert queue.take(4) == ["bob0", "alice0", "bob1", "alice1"]
    queue.release("bob0")
    assert queue.order == ["bob0", "bob2", "alice2", "bob3", "alice3"]
    queue.ask("bob4")
    assert queue.order[-1] == "bob4"
    queue.take(1)
    assert queue.order == ["bob2", "alice2", "bob3", "alice3", "bob4"], "it had had its turn already"


def test_what_crawls_goes_behind_its_owners_others_and_passes_nobody(queue: Queue) -> None:
    queue.ask_many("bob", 3)
    queue.ask("alice0")
    queue.take(1)
    queue.release("bob0", behind=True)
    assert queue.order == ["alice0", "bob1", "bob2", "bob0"]


@pytest.mark.parametrize("way", ["paused", "priority"])
def test_neither_a_pause_nor_a_priority_makes_turns(queue: Queue, way: str) -> None:
    names = queue.ask_many("bob", 10)
    for name in reversed(names):
        if way == "paused":
            queue.release(name, to="paused")
        else:
            queue.downloads.tracker.set_priority(read(queue.downloads, queue.ids[name]), "low")
    queue.ask_many("alice", 3)
    queue.take(1)
    for name in reversed(names):
        if way == "paused":
            queue.release(name)
        else:
            queue.downloads.tracker.set_priority(read(queue.downloads, queue.ids[name]), "normal")
    assert queue.order[:6] == ["bob0", "alice1", "bob1", "alice2", "bob2", "bob3"]
    assert queue.order[6:] == names[4:]


def test_a_resumed_one_is_served_in_the_order_of_its_owners_requests(queue: Queue) -> None:
    queue.ask_many("bob", 4)
    queue.ask_many("alice", 4)
    queue.release("bob1", to="paused")
    assert queue.order == ["bob0", "alice0", "bob2", "alice1", "bob3", "alice2", "alice3"]
    queue.release("bob1")
    assert queue.order == ["bob0", "alice0", "bob1", "alice1", "bob2", "alice2", "bob3", "alice3"]


def test_who_joins_anothers_last_one_does_not_wait_for_all_before_it(queue: Queue) -> None:
    queue.ask_many("bob", 6)
    queue.ask("bob5", owner="alice")
    assert queue.order == ["bob0", "bob5", "bob1", "bob2", "bob3", "bob4"]
    queue.ask("alice0")
    assert queue.order[:4] == ["bob0", "bob5", "bob1", "alice0"], "it is alice's turn that it takes"
    queue.ask("bob0", owner="alice")
    assert queue.order[0] == "bob0", "what comes earlier by bob's turn stays his"
    assert queue.downloads.tracker.leave(queue.ids["bob5"], "alice") == "left"
    assert queue.order == ["bob0", "alice0", "bob1", "bob2", "bob3", "bob4", "bob5"]


def test_a_share_given_up_by_whose_turn_it_was_is_the_next_owners(queue: Queue) -> None:
    queue.ask_many("bob", 3)
    queue.ask_many("alice", 3)
    queue.ask("bob0", owner="carol")
    queue.downloads.tracker.leave(queue.ids["bob0"], "bob")
    assert sorted(queue.order[:3]) == ["alice0", "bob0", "bob1"]
    queue.ask("carol1")
    assert queue.order.index("carol1") > queue.order.index("bob1")


def test_a_lost_redis_gives_turns_again(queue: Queue, intents: IntentLog, restorer: Restore) -> None:
    for name in (*queue.ask_many("bob", 6), *queue.ask_many("alice", 3)):
        intents.write(intent_of(read(queue.downloads, queue.ids[name])))
    queue.store.flushall()
    restorer.look(None)
    assert [sorted(queue.order[n : n + 2]) for n in (0, 2, 4)] == [[f"alice{n}", f"bob{n}"] for n in range(3)]
    assert queue.order[6:] == ["bob3", "bob4", "bob5"]


def left_by_the_version_before(queue: Queue) -> None:
    """Every place as that version makes it, and nothing of what it does not know."""
    for download_id in queue.ids.values():
        record = read(queue.downloads, download_id)
        if record.state == "queued":
            queue.store.zadd(keys.PENDING, {download_id: RANKS[record.priority] * RANK_STEP + record.created_ms})
    for key in queue.store.keys("hive:line:*") + queue.store.keys("hive:turns:*"):
        queue.store.delete(key)


def test_a_queue_of_the_version_before_goes_on_in_turns(queue: Queue) -> None:
    queue.ask_many("bob", 6)
    queue.ask_many("alice", 2)
    left_by_the_version_before(queue)
    assert queue.order[:2] == ["bob0", "bob1"]
    assert queue.downloads.tracker.build_index() == "0"
    assert sorted(queue.order[:2]) == ["alice0", "bob0"]
    assert sorted(queue.order[2:4]) == ["alice1", "bob1"]
    queue.ask("carol0")
    assert queue.order.index("carol0") <= 2
    queue.ask("bob6")
    assert [name for name in queue.order if name.startswith("bob")] == [f"bob{n}" for n in range(7)]


def test_what_workers_of_the_version_before_take_is_not_missed(queue: Queue) -> None:
    queue.ask_many("bob", 4)
    queue.ask("alice0")
    for name in queue.order[-2:]:
        queue.store.zrem(keys.PENDING, queue.ids[name])
    queue.ask_many("bob", 2, first=10)
    assert queue.order == ["bob0", "alice0", "bob1", "bob10", "bob11"]
    queue.downloads.tracker.build_index()
    assert queue.store.zcard(keys.owner_line("bob")) == 4


def test_the_version_before_understands_the_queue(queue: Queue) -> None:
    """It goes by the scores alone: ranks in their spans, the lowest first, none far from now."""
    queue.ask_many("bob", 50)
    queue.ask_many("alice", 50)
    queue.ask("alice100", "high")
    queue.ask("bob100", "low")
    now_ms = time.time_ns() // 10**6
    for name, score in queue.scores().items():
        rank, at_ms = divmod(score, RANK_STEP)
        assert rank == RANKS[read(queue.downloads, queue.ids[name]).priority]
        assert abs(at_ms - now_ms) < 60 * TURN_MS
    assert queue.downloads.admission.urgent() == [queue.ids["alice100"]]


def test_nothing_is_left_where_nothing_waits(queue: Queue) -> None:
    queue.ask_many("bob", 3)
    queue.ask_many("alice", 3)
    assert all(0 < queue.store.ttl(keys.owner_line(owner)) <= 7 * 86_400 for owner in ("alice", "bob"))
    for name in queue.take(6):
        queue.end(name)
    assert not queue.store.keys("hive:line:*")
    turns = keys.turns("normal")
    assert 0 < queue.store.ttl(turns) <= 86_400
    assert queue.store.zcard(turns) <= 3


def test_a_record_that_is_set_aside_leaves_its_owners_line(queue: Queue, downloads: DownloadContext) -> None:
    queue.ask_many("bob", 3)
    queue.store.hset(keys.record(queue.ids["bob1"]), "fence", "nonsense")
    assert downloads.tracker.read(queue.ids["bob1"]) is None
    assert queue.store.zcard(keys.owner_line("bob")) == 2
    queue.ask("alice0")
    assert queue.order == ["bob0", "alice0", "bob2"]


def test_what_a_place_costs_does_not_grow_with_the_queue(queue: Queue) -> None:
    """Commands that Redis runs for one request and one claim, with few and with many that wait."""

    def commands(name: str) -> int:
        before = sum(int(each["calls"]) for each in queue.store.info("commandstats").values())
        queue.downloads.tracker.create(new(name, owner=name.rstrip("0123456789")))
        claim(queue.downloads, queue.downloads.admission.pending(1)[0])
        return sum(int(each["calls"]) for each in queue.store.info("commandstats").values()) - before

    queue.ask_many("bob", 5)
    queue.ask_many("alice", 5)
    few = commands("bob900")
    queue.ask_many("bob", 300, first=100)
    assert commands("bob901") <= few + 10
    assert commands("carol0") <= few + 10


MOVES: list[tuple[str, Side, str, list[int]]] = [
    ("m4", "before", "m1", [0, 4, 1, 2, 3]),
    ("m0", "behind", "m2", [1, 2, 0, 3, 4]),
    ("m0", "before", "m2", [1, 0, 2, 3, 4]),
    ("m3", "behind", "m0", [0, 3, 1, 2, 4]),
    ("m1", "behind", "m4", [0, 2, 3, 4, 1]),
    ("m2", "behind", "m1", [0, 1, 2, 3, 4]),
    ("m2", "before", "m3", [0, 1, 2, 3, 4]),
]


@pytest.mark.parametrize("owner", ["", "bob"])
@pytest.mark.parametrize(("name", "side", "other", "expected"), MOVES)
def test_what_waits_can_be_moved(
    queue: Queue, owner: str, name: str, side: Side, other: str, expected: list[int]
) -> None:
    for number in range(5):
        queue.ask(f"m{number}", owner=owner)
    scores = sorted(queue.scores().values())
    assert queue.move(name, side, other)
    wanted = [f"m{number}" for number in expected]
    assert queue.order == wanted
    assert sorted(queue.scores().values()) == scores, "the places are the same ones"
    queue.release(wanted[0], to="paused")
    queue.release(wanted[0])
    queue.take(1)
    queue.release(wanted[0])
    queue.ask("m9", owner=owner)
    assert queue.order == [*wanted, "m9"], "it keeps its place, and who comes later is behind"


def test_two_of_one_millisecond_can_be_moved_too(queue: Queue) -> None:
    for number in range(4):
        queue.ask(f"m{number}", owner="")
    for name in queue.order:
        queue.store.zadd(keys.PENDING, {queue.ids[name]: RANK_STEP + 7})
    a, b, c, d = queue.order
    assert queue.move(d, "before", b)
    assert queue.order == [a, d, b, c]


def test_many_moves_to_one_place_find_room(queue: Queue) -> None:
    for number in range(20):
        queue.ask(f"m{number}", owner="")
    for number in range(19, 1, -1):
        assert queue.move(f"m{number}", "behind", "m0")
    assert queue.order == ["m0", *(f"m{number}" for number in range(2, 20)), "m1"]


def test_what_is_moved_takes_the_priority_and_its_events_say_so(queue: Queue) -> None:
    queue.ask_many("bob", 3)
    queue.ask("bob9", "high")
    queue.ask("bob8", "low")
    assert queue.move("bob2", "before", "bob9")
    assert queue.move("bob8", "before", "bob1")
    assert queue.order == ["bob2", "bob9", "bob0", "bob8", "bob1"]
    moved = read(queue.downloads, queue.ids["bob2"])
    assert (moved.priority, moved.last_event.priority) == ("high", "high")  # type: ignore[union-attr]


def test_a_move_changes_nobody_elses_turn(queue: Queue) -> None:
    queue.ask_many("bob", 4)
    queue.ask_many("alice", 3)
    theirs = {name: score for name, score in queue.scores().items() if name.startswith("alice")}
    assert queue.order == ["bob0", "alice0", "bob1", "alice1", "bob2", "alice2", "bob3"]
    assert queue.move("bob3", "before", "alice0")
    assert queue.order == ["bob0", "alice0", "bob3", "alice1", "bob1", "alice2", "bob2"]
    assert {name: score for name, score in queue.scores().items() if name.startswith("alice")} == theirs


def test_only_what_waits_is_moved_and_only_by_who_has_read_it(queue: Queue) -> None:
    queue.ask_many("bob", 4)
    queue.take(1)
    assert queue.move("bob0", "behind", "bob2") is None
    assert queue.move("bob2", "before", "bob0") is None
    assert queue.move("bob2", "before", "bob2") is None
    queue.release("bob3", to="paused")
    assert queue.move("bob1", "behind", "bob3") is None
    read_before = read(queue.downloads, queue.ids["bob2"])
    assert queue.move("bob2", "before", "bob1")
    assert queue.downloads.tracker.move(read_before, read(queue.downloads, queue.ids["bob1"]), "behind") is False
    queue.cancel("bob2")
    assert queue.move("bob2", "before", "bob1") is False
    assert queue.order == ["bob1"]
