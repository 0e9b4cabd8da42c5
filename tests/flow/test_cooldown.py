"""One worker hears "too many requests", and the whole fleet leaves the host alone."""

from __future__ import annotations

import time

import pytest

from tests.hub import SyntheticFile, faults
from tests.hub.hits import Hit
from tests.hub.server import HubServer
from tests.support.content import MIB
from tests.support.service import Service
from tests.support.waiting import wait_for
from workers.fleet.cooldown import FRESH_S

RETRY_AFTER_S = 4.0
#: Seconds within which the others must know: what they last heard is believed for FRESH_S, and a request may be on its
#: way.
SPREAD_S = FRESH_S + 0.25


def the_refused(hub: HubServer) -> Hit:
    """The request that was told to wait, once its answer is in the log."""
    wait_for(lambda: any(hit.status == 429 for hit in hub.log), "one is refused")
    return next(hit for hit in hub.log if hit.status == 429)


def test_a_rest_at_the_hubs_api_is_kept_by_all_workers(service: Service, hub: HubServer) -> None:
    for number in range(4):
        hub.create(f"org/m{number}", {"model.safetensors": SyntheticFile(1000, seed=number)})
    hub.faults.add(faults.too_many_requests(RETRY_AFTER_S), "/api/models/*", count=1)
    first = service.post("hf:org/m0")["download_id"]
    refused_at = the_refused(hub).at_s
    wait_for(lambda: time.monotonic() > refused_at + SPREAD_S)
    others = [service.post(f"hf:org/m{number}")["download_id"] for number in range(1, 4)]

    for download_id in (first, *others):
        assert service.watch(download_id).wait(30).last["stage"] == "complete"

    later = sorted(hit.at_s - refused_at for hit in hub.log if hit.at_s > refused_at)
    assert later[0] >= RETRY_AFTER_S - 0.05, later[:3]
    assert later[0] < RETRY_AFTER_S + 5, "a rest has an end"


@pytest.mark.slow
def test_a_rest_in_the_middle_of_two_transfers_is_kept_by_both(service: Service, hub: HubServer) -> None:
    # More parts than connections: each of them has something to ask for after the rest.
    contents = [SyntheticFile(160 * MIB, seed=80 + number) for number in range(2)]
    for number, content in enumerate(contents):
        hub.create(f"org/m{number}", {"model.safetensors": content})
    hub.limit_rate_bytes_per_s = 4 * MIB
    ids = [service.post(f"hf:org/m{number}")["download_id"] for number in range(2)]
    wait_for(lambda: len({hit.file for hit in hub.log if hit.bytes_sent > MIB}) == 2)
    hub.faults.add(faults.too_many_requests(RETRY_AFTER_S), "*model.safetensors", origin="cdn", count=1)
    refused = the_refused(hub)

    for download_id in ids:
        end = service.watch(download_id).wait(60).last
        assert end["stage"] == "complete"
        assert end["attempt"] == 1

    during = [
        (hit.file, hit.at_s - refused.at_s)
        for hit in hub.log
        if refused.at_s + SPREAD_S < hit.at_s < refused.at_s + RETRY_AFTER_S - 0.05
    ]
    assert during == []
    after = {hit.file for hit in hub.log if hit.at_s > refused.at_s + RETRY_AFTER_S}
    assert after == {"org/m0/model.safetensors", "org/m1/model.safetensors"}


def test_a_rest_while_a_signed_address_is_asked_for_costs_no_attempt(service: Service, hub: HubServer) -> None:
    hub.create("org/large", {"model.safetensors": SyntheticFile(20 * MIB, seed=85)})
    rule = hub.faults.add(faults.too_many_requests(1), "*model.safetensors", origin="hub", method="HEAD", count=1)

    end = service.bring("hf:org/large")

    assert rule.struck
    assert end["stage"] == "complete", end
    assert end["attempt"] == 1
    refused, following = [hit.at_s for hit in hub.hits("*model.safetensors", origin="hub")][:2]
    assert following - refused >= 0.95
