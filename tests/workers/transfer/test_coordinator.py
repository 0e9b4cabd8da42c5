"""Who leaves when a file has more connections than it wants."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hive.net.egress import Network
from tests.hub.server import HubServer
from tests.support.transfer import QUICK, big, source
from workers.transfer.connection import PartFetcher
from workers.transfer.control import Control
from workers.transfer.coordinator import Coordinator, Transports
from workers.transfer.http.pool import HostPool
from workers.transfer.http.transport import HttpTransport
from workers.transfer.limits import MIB
from workers.transfer.state.part_map import PartMap
from workers.transfer.transport import ExpectedContent


@pytest.fixture
def coordinator(hub: HubServer) -> Iterator[Coordinator]:
    """Of a file that has pieces for many; one connection is wanted."""
    what = source(hub.plain("f", big(4 * MIB)), big(4 * MIB))
    with HostPool(Network()) as pool:
        yield Coordinator(
            -1,
            PartMap(4 * MIB),
            Transports([HttpTransport(what, pool, QUICK)]),
            Control(),
            QUICK,
            known=ExpectedContent(4 * MIB),
            pinned=True,
            solo=False,
            on_settled=lambda _: None,
            on_wrote=lambda _: None,
            on_look=lambda *_: None,
        )


def connect(coordinator: Coordinator, *, brings: bool, leaving: bool = False) -> PartFetcher:
    made = PartFetcher(coordinator)
    made.brings, made.leaving = brings, leaving
    coordinator._connections[made] = None
    return made


def test_one_that_reads_stays_while_those_beyond_it_are_on_their_way_out(coordinator: Coordinator) -> None:
    reader = connect(coordinator, brings=True)
    connect(coordinator, brings=True, leaving=True)
    assert coordinator.next_piece(reader) is not None


def test_one_that_reads_stays_while_those_beyond_it_have_brought_nothing(coordinator: Coordinator) -> None:
    reader = connect(coordinator, brings=True)
    connect(coordinator, brings=False)
    connect(coordinator, brings=False)
    assert coordinator.next_piece(reader) is not None


def test_of_two_that_read_one_leaves(coordinator: Coordinator) -> None:
    one, other = connect(coordinator, brings=True), connect(coordinator, brings=True)
    assert coordinator.next_piece(one) is None
    assert coordinator.next_piece(other) is not None
