"""The people of the soak: they ask for models of any size, watch them, and pause, resume and cancel as they like."""

from __future__ import annotations

import random
import shutil
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from hive.store.layout import repo_folder
from hive.wire.api import DownloadRequest
from hive.wire.events import Complete, Error
from tests.chaos.history import Watch, judge_files
from tests.chaos.world import World
from tests.hub.content import Content, SyntheticFile
from tests.hub.hits import Hit
from tests.support.content import MIB

#: Bytes of a model: between these, the logarithm evenly spread.
SMALLEST_BYTES, LARGEST_BYTES = 64 << 10, 200 * MIB
#: How often a model is a repository of many files.
MANY_FILES_CHANCE = 0.25
#: How often a person meddles with a download, and the seconds within which it does.
MEDDLE_CHANCE, MEDDLE_WITHIN_S = 0.25, 8.0
#: Seconds until a person tries again.
ASK_AGAIN_S = 0.2
#: Seconds for which a download stays paused, at most.
PAUSED_S = 10.0


@dataclass
class Order:
    """One download of the soak."""

    name: str
    contents: dict[str, Content]
    watch: Watch
    asked_s: float
    #: What a person does to it, and when; one thing after the other.
    meddling: list[tuple[float, str]]
    doing: Future[None] | None = None
    cancelled: bool = False
    paused: bool = False
    strikes: list[int] = field(default_factory=list)
    hits: list[Hit] = field(default_factory=list)
    ended_s: float | None = None
    wrong: list[str] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Bytes of the model."""
        return sum(content.size for content in self.contents.values())

    @property
    def sent(self) -> int:
        """Bytes that the stand-in has sent of it."""
        return sum(hit.bytes_sent for hit in self.hits if hit.status in (200, 206))

    @property
    def fetched_again(self) -> int:
        """Bytes that were sent more than once."""
        return max(0, self.sent - self.size) if isinstance(self.watch.last, Complete) else 0


class LoadGenerator:
    """Takes orders, and follows them to their ends."""

    def __init__(self, world: World, rng: random.Random, *, sizes: tuple[int, int], meddle: bool) -> None:
        """`sizes`: bytes of the smallest model and of the largest."""
        self.orders: list[Order] = []
        self.ended: list[Order] = []
        #: Until when the record of a download may be gone: Redis was emptied.
        self.lost_until_s = 0.0
        self._world = world
        self._rng = rng
        self._smallest, self._largest = sizes
        self._meddle = meddle
        self._people = ThreadPoolExecutor(6, thread_name_prefix="person")
        self._asking: list[Future[Order]] = []
        self._numbers = iter(range(1, 1_000_000))
        self._by_repo: dict[str, Order] = {}
        self._seen_hits = 0

    @property
    def may_be_lost(self) -> bool:
        """Whether a record may be gone now."""
        return time.monotonic() < self.lost_until_s

    @property
    def live(self) -> int:
        """Downloads under way, or asked for."""
        return len(self.orders) + len(self._asking)

    def ask(self) -> None:
        """A person asks for one more model."""
        number = next(self._numbers)
        rng = random.Random(self._rng.getrandbits(64))
        self._asking.append(self._people.submit(self._ask, number, rng))

    def tick(self) -> list[Order]:
        """Look at everything once; gives what has ended."""
        self._collect()
        self._count_hits()
        now_s = time.monotonic()
        for order in self.orders:
            if order.doing is not None and order.doing.done():
                order.doing.result()
                order.doing = None
            if order.doing is None and order.meddling and order.meddling[0][0] <= now_s:
                order.doing = self._people.submit(self._do, order, order.meddling.pop(0)[1])
        over = [order for order in self.orders if order.watch.over]
        for order in over:
            self.orders.remove(order)
            self._see_out(order)
        return over

    def at_full_speed(self) -> None:
        """Nobody meddles any more; what is paused goes on."""
        for order in self.orders:
            order.meddling = [(0.0, word) for _, word in order.meddling if word == "resume"]

    def close(self) -> None:
        """Send the people home."""
        for order in self.orders:
            order.watch.leave()
        self._people.shutdown(cancel_futures=True)

    # -- one order ---------------------------------------------------------------------------------------------------

    def _ask(self, number: int, rng: random.Random) -> Order:
        name = f"chaos/n{number}"
        contents = self._model(number, rng)
        for content in contents.values():
            content.sha256()  # computed before the clock runs
        self._world.hub.create(name, dict(contents))
        body = {"priority": rng.choice(("low", "normal", "high"))} if knows_priorities() else {}
        asked_s = time.monotonic()
        download_id = self._world.post(f"hf:{name}", **body)
        watch = self._world.watch(download_id, may_be_lost=lambda: self.may_be_lost)
        return Order(name, contents, watch, asked_s, self._plan(rng))

    def _model(self, number: int, rng: random.Random) -> dict[str, Content]:
        size = int(self._smallest * (self._largest / self._smallest) ** rng.random())
        if rng.random() >= MANY_FILES_CHANCE:
            return {"m-Q4_K_M.gguf": SyntheticFile(size, seed=number)}
        small: dict[str, Content] = {
            f"part/{n}.txt": SyntheticFile(rng.randrange(100_000), seed=number * 1000 + n)
            for n in range(rng.randrange(1, 20))
        }
        return {**small, "model.safetensors": SyntheticFile(size, seed=number)}

    def _plan(self, rng: random.Random) -> list[tuple[float, str]]:
        if not self._meddle or rng.random() > MEDDLE_CHANCE:
            return []
        at_s = time.monotonic() + rng.uniform(0, MEDDLE_WITHIN_S)
        if rng.random() < 0.4:
            return [(at_s, "cancel")]
        return [(at_s, "pause"), (at_s + rng.uniform(0.1, PAUSED_S), "resume")]

    def _do(self, order: Order, word: str) -> None:
        """A person insists until it is answered."""
        path = f"/v1/downloads/{order.watch.id}"
        if word == "cancel":
            order.cancelled = True
            answer = self._world.ask("DELETE", path)
        else:
            order.paused = word == "pause"
            answer = self._world.ask("POST", f"{path}/{word}")
        conflict = answer.status_code == 409 and answer.json()["error"]["code"] == "CONFLICT"
        if conflict or (answer.status_code == 404 and self.may_be_lost):
            time.sleep(ASK_AGAIN_S)  # it changed hands just then, or is being brought back: a person tries again
            self._do(order, word)
        elif answer.status_code not in (202, 409):
            order.wrong.append(f"{order.watch.id}: {word} was answered {answer.status_code}: {answer.text}")

    def _see_out(self, order: Order) -> None:
        order.ended_s = time.monotonic()
        self.ended.append(order)
        order.wrong += order.watch.judge()
        end = order.watch.last
        if isinstance(end, Complete):
            order.wrong += [f"{order.watch.id}: {problem}" for problem in judge_files(end, order.contents)]
        elif isinstance(end, Error) and not (end.code == "CANCELLED" and order.cancelled):
            order.wrong.append(f"{order.watch.id}: ended with {end.code}: {end.message}")
        folder = self._world.folder / "store" / "hub" / repo_folder(order.name)
        shutil.rmtree(folder, ignore_errors=True)

    # -- all of them -------------------------------------------------------------------------------------------------

    def _collect(self) -> None:
        for future in [future for future in self._asking if future.done()]:
            self._asking.remove(future)
            order = future.result()
            self.orders.append(order)
            self._by_repo[order.name] = order

    def _count_hits(self) -> None:
        """Give every hit on the CDN to its order; those of orders that are not known yet wait for the next time."""
        log = list(self._world.hub.log)
        for hit in log[self._seen_hits :]:
            order = self._by_repo.get("/".join(hit.file.split("/")[:2]))
            if order is None and hit.file.startswith("chaos/"):
                return
            if order is not None and hit.method == "GET":
                order.hits.append(hit)
            self._seen_hits += 1


def knows_priorities() -> bool:
    """Whether a request may say how soon it wants its model."""
    return "priority" in DownloadRequest.__struct_fields__
