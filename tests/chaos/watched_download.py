"""A download under way in the world, and those who watch it."""

from __future__ import annotations

import itertools
from pathlib import Path

from hive.wire.events import Complete, Event
from tests.chaos.history import Watch, judge_files
from tests.chaos.world import World
from tests.hub import SyntheticFile
from tests.support.content import MIB
from tests.support.waiting import wait_for

#: Seconds of a lease in these tests: a little less than the default. A machine that has other work as well stops a
#: worker for two or three.
LEASE_S = 5.0
#: Bytes a second of one connection to the stand-in while a test wants a download to last.
SLOW_BYTES_PER_S = 0.25 * MIB
#: Bytes a second of one connection where a download is to come soon and what is sent is counted: at full speed the
#: stand-in is megabytes ahead of its reader in the sockets' buffers, the more the busier the machine is.
QUICK_BYTES_PER_S = 8 * MIB

_numbers = itertools.count(1)


class WatchedDownload:
    """A download under way in a test, and those who watch it."""

    def __init__(self, world: World, size: int = 40 * MIB, **how: object) -> None:
        number = next(_numbers)
        self.world = world
        self.content = SyntheticFile(size, seed=number)
        self.repo = f"chaos/n{number}"
        world.hub.create(self.repo, {"m-Q4_K_M.gguf": self.content})
        self.id = world.post(f"hf:{self.repo}")
        self.watch: Watch = world.watch(self.id, **how)

    def under_way(self, at_least: int = 2 * MIB) -> WatchedDownload:
        """Some bytes have arrived."""
        wait_for(lambda: self.watch.bytes_done >= at_least, what=f"{at_least} bytes of {self.id}")
        return self

    def at_full_speed(self) -> WatchedDownload:
        """The rest comes at full speed."""
        self.world.hub.limit_rate_bytes_per_s = None
        self.world.hub.close_connections()
        return self

    def end(self, within_s: float = 60.0) -> Event:
        """The one end that all saw, as it should be."""
        wait_for(lambda: self.watch.over, deadline_s=within_s, what=f"the end of {self.id}, {self.watch.last!r}")
        assert self.watch.judge() == []
        assert self.watch.last is not None
        return self.watch.last

    def complete(self, within_s: float = 60.0) -> Complete:
        """The same, with the right bytes on the disk."""
        end = self.end(within_s)
        assert isinstance(end, Complete), end
        assert judge_files(end, {"m-Q4_K_M.gguf": self.content}) == []
        return end

    @property
    def sent(self) -> int:
        """Bytes of the file that the stand-in has sent."""
        return sum(hit.bytes_sent for hit in self.world.hub.log if hit.file.startswith(self.repo))

    @property
    def partial(self) -> Path:
        """Where its bytes lie while it is under way."""
        return self.world.folder / "store" / "hive" / "partial" / f"{self.content.sha256()}.part"
