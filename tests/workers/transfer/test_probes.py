"""A probe: the size and the name that a server says, what can never be had, and nothing of what may pass."""

from __future__ import annotations

import socket
import time
from dataclasses import replace

import pytest

from hive.errors import FileNotFound, HiveError, ModelAccessDenied, NotAModel, UnsafeUrl
from hive.net.addresses import address_check
from hive.net.egress import Network
from tests.hub import HubServer, faults
from tests.support.content import KIB, MIB
from tests.support.transfer import QUICK, big, source
from workers.sources.sniff import check_head
from workers.transfer import Served, Source, probe

FREE = Network()


def inspected(url: str) -> Source:
    def inspect(served: Served, head: bytes) -> None:
        check_head(served, head, ["model.gguf"])

    return replace(source(url, pinned=False), inspect=inspect)


def test_the_size_and_the_name_are_what_the_server_says(hub: HubServer) -> None:
    hub.faults.add(faults.presented(big(3 * MIB), "application/x", 'attachment; filename="m.gguf"'), "/f")
    found = probe(source(hub.redirect("start", hub.plain("f", big(3 * MIB))), pinned=False), FREE, QUICK)
    assert found is not None
    assert (found.size, found.served.disposition) == (3 * MIB, 'attachment; filename="m.gguf"')
    assert hub.hits("/f")[0].range == "bytes=0-4095"
    assert hub.bytes_sent("/f") <= 4 * KIB


@pytest.mark.parametrize(
    ("fault", "size"),
    [
        (faults.no_range(), 64 * MIB),
        (faults.status(500), None),
        (faults.status(429), None),
        (faults.hang_up(), None),
        (faults.stall(0), 64 * MIB),
        (faults.until_close(), 64 * MIB),
    ],
    ids=["no ranges", "500", "429", "a reset", "a head and silence", "no length"],
)
def test_what_may_pass_is_no_answer_and_nothing_is_downloaded(
    hub: HubServer, fault: faults.Fault, size: int | None
) -> None:
    hub.limit_rate_bytes_per_s = MIB
    hub.faults.add(fault, "/f")
    found = probe(source(hub.plain("f", big(64 * MIB)), pinned=False), FREE, replace(QUICK, stall_s=0.3))
    assert (found.size if found is not None else None) == size
    assert hub.bytes_sent("/f") < 16 * MIB


@pytest.mark.parametrize(
    ("status", "error"), [(404, FileNotFound), (410, FileNotFound), (401, ModelAccessDenied), (403, ModelAccessDenied)]
)
def test_what_can_never_be_had_is_said(hub: HubServer, status: int, error: type[HiveError]) -> None:
    hub.faults.add(faults.status(status), "/f")
    with pytest.raises(error):
        probe(source(hub.plain("f", big()), pinned=False), FREE, QUICK)
    assert len(hub.hits("/f")) == 1


def test_a_page_in_place_of_the_file_is_found(hub: HubServer) -> None:
    hub.faults.add(faults.presented(b"<html>sign in</html>", "text/html"), "/f")
    with pytest.raises(NotAModel, match="a web page"):
        probe(inspected(hub.plain("f", big())), FREE, QUICK)


def test_it_goes_by_the_guard(hub: HubServer) -> None:
    with pytest.raises(UnsafeUrl):
        probe(source(hub.plain("f", big()), pinned=False), Network(address_check=address_check()), QUICK)
    assert not hub.hits()


def test_a_server_that_never_answers_costs_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.transfer.probes.PROBE_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        began_s = time.monotonic()
        assert probe(source(f"http://127.0.0.1:{mute.getsockname()[1]}/f", pinned=False), FREE, QUICK) is None
        assert time.monotonic() - began_s < 5.0
