"""SIGTERM with two thousand open streams: all end cleanly and not at once, the process is gone, and the clients see the
rest at the other replica.
"""

from __future__ import annotations

import asyncio
import resource
import signal
from collections import Counter
from collections.abc import Iterator

import pytest

from hive.downloads.context import DownloadContext
from hive.downloads.record import Claim
from tests.support.downloads import claim, complete, create, downloading
from tests.support.processes import Serve, Server
from tests.support.waiting import AT_ONCE_S, DEADLINE_S, wait_for_async
from tests.support.witness import Connection, Witness, watch

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

STREAMS, DOWNLOADS = 2000, 20
#: Seconds over which the server ends its streams.
WINDOW_S = 10.0
#: The greatest part of all streams that may end in a tenth of the window.
MOST_IN_A_TENTH = 0.2
#: Clients that connect at a time, at first.
AT_ONCE = 100
#: Open files that the test needs, on either side.
OPEN_FILES = 2 * STREAMS + 500


@pytest.fixture(autouse=True)
def _many_open_files() -> Iterator[None]:
    """Here, and in the servers, which inherit it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, OPEN_FILES)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Client:
    """Watches one download at one replica, and goes to the other when it is sent away, as late as it is told to."""

    def __init__(self, download_id: str) -> None:
        self.id = download_id
        self.witness = Witness()
        self.connection: Connection | None = None
        self.first_end_s = 0.0

    @property
    def moved(self) -> bool:
        """Whether it was sent away, and is connected again."""
        return bool(self.first_end_s and self.connection and self.connection.transport)

    async def connect(self, server: Server) -> None:
        self.connection = await watch(server.url, self.id, self.witness, last_event_id=self.witness.last_event_id)
        assert self.connection.answered.result() == 200

    async def follow(self, other: Server) -> None:
        """To the end."""
        assert self.connection is not None
        assert await self.connection.over, "the stream was cut"
        self.first_end_s = self.connection.ended_s
        assert self.witness.done == 0, "an ended replica is no ended download"
        await asyncio.sleep(self.witness.retries_ms[-1] / 1000)
        await self.connect(other)
        assert await self.connection.over
        assert self.witness.done == 1


async def connect_all(clients: list[Client], server: Server) -> None:
    for start in range(0, len(clients), AT_ONCE):
        await asyncio.gather(*(client.connect(server) for client in clients[start : start + AT_ONCE]))
    await wait_for_async(lambda: all(client.witness.seen for client in clients), "everyone sees", DEADLINE_S)


def publish(downloads: DownloadContext, claims: list[Claim], seq: int) -> None:
    for held in claims:
        downloads.claims.publish(held, seq, downloading(seq))


def finish(downloads: DownloadContext, claims: list[Claim], seq: int) -> None:
    for held in claims:
        downloads.claims.finish(held, seq, "complete", complete(), "/x")


async def test_two_thousand_streams_move_to_another_replica(own_downloads: DownloadContext, serve: Serve) -> None:
    first, second = serve(HIVE_DRAIN_S=str(WINDOW_S)), serve()
    ids = [create(own_downloads, f"model-{n}") for n in range(DOWNLOADS)]
    claims = [claim(own_downloads, download_id) for download_id in ids]
    clients = [Client(ids[n % DOWNLOADS]) for n in range(STREAMS)]
    await connect_all(clients, first)

    first.signal(signal.SIGTERM)
    told_s = asyncio.get_running_loop().time()
    following = asyncio.gather(*(client.follow(second) for client in clients))
    exit_code = await asyncio.to_thread(first.wait)
    gone_s = asyncio.get_running_loop().time()
    await asyncio.to_thread(publish, own_downloads, claims, 2)
    async with asyncio.timeout(DEADLINE_S):
        await wait_for_async(lambda: all(client.moved for client in clients), "everyone has moved", DEADLINE_S)
        await asyncio.to_thread(finish, own_downloads, claims, 3)
        await following

    assert exit_code == 0
    assert "Traceback" not in first.output
    assert gone_s - told_s < WINDOW_S + AT_ONCE_S
    ends_s = [client.first_end_s - told_s for client in clients]
    assert max(ends_s) < WINDOW_S + AT_ONCE_S
    tenths = Counter(int(end_s / WINDOW_S * 10) for end_s in ends_s)
    assert max(tenths.values()) <= MOST_IN_A_TENTH * STREAMS, sorted(tenths.items())
    returns_s = [end_s + client.witness.retries_ms[1] / 1000 for end_s, client in zip(ends_s, clients, strict=True)]
    assert max(Counter(int(return_s / WINDOW_S * 10) for return_s in returns_s).values()) <= MOST_IN_A_TENTH * STREAMS
    assert [problem for client in clients for problem in client.witness.wrong] == []
    print(f"drained over {max(ends_s):.2f} s, in tenths: {[tenths[n] for n in range(11)]}")
