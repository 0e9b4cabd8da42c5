"""Resolving patiently: what may pass is waited for, what another try does not change ends at once."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from hive.errors import HiveError, HubRefused, HubUnavailable, ModelAccessDenied, TlsRefused
from hive.settings import Settings
from hive.wire.jobs import Request
from hive.wire.refs import parse_ref
from tests.hub import HubServer, faults
from tests.support.settings import settings_for
from workers import resolve as module
from workers.fetch import network_for
from workers.resolve import resolve_patiently
from workers.sources import Plan
from workers.transfer import Control, LocalCooldown

API = "/api/models/*"


class Said:
    """What a watcher would hear."""

    def __init__(self) -> None:
        self.statuses: list[str] = []

    def status(self, status: str, message: str | None = None) -> None:
        self.statuses.append(status)


@pytest.fixture
def settings(tmp_path: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(module, "HUB_WAIT_FIRST_S", 0.01)
    monkeypatch.setattr(module, "HUB_WAIT_LAST_S", 0.02)
    hub.create("org/name", {"README.md": b"# tiny\n"})
    return settings_for(tmp_path, HF_ENDPOINT=hub.endpoint)


def resolved(settings: Settings, said: Said) -> Plan:
    return resolve_patiently(
        parse_ref("org/name"),
        Request(ref="hf:org/name"),
        settings=settings,
        network=network_for(settings, guarded=False),
        token=None,
        control=Control(),
        reporter=said,  # type: ignore[arg-type]
        cooldown=LocalCooldown(),
    )


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (faults.status(400), HubRefused),
        (faults.status(403), ModelAccessDenied),
        (faults.status(200, {"Content-Type": "text/html"}, "<html>"), HubRefused),
        (faults.status(200, {"Content-Encoding": "zstd"}, "x"), HubRefused),
    ],
)
def test_what_cannot_change_is_not_waited_for(
    hub: HubServer, settings: Settings, fault: faults.Fault, kind: type[HiveError]
) -> None:
    hub.faults.add(fault, API)
    said = Said()
    with pytest.raises(kind):
        resolved(settings, said)
    assert said.statuses == []
    assert len(hub.hits(API)) <= 2, "once, and once more without `expand`"


@pytest.mark.parametrize("asked", ["0", "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_a_hub_that_asks_for_a_rest_of_no_time_is_not_stormed(hub: HubServer, settings: Settings, asked: str) -> None:
    hub.faults.add(faults.status(429, {"Retry-After": asked}), API, count=2)
    began_s = time.monotonic()
    assert resolved(settings, Said()).files
    assert time.monotonic() - began_s >= 2 * 0.9


def test_a_server_without_tls_is_asked_once(tmp_path: Path, hub: HubServer, settings: Settings) -> None:
    said = Said()
    with pytest.raises(TlsRefused):
        resolved(settings_for(tmp_path, HF_ENDPOINT=hub.endpoint.replace("http:", "https:")), said)
    assert said.statuses == []


def test_a_hub_that_is_away_is_asked_again(hub: HubServer, settings: Settings) -> None:
    hub.faults.add(faults.status(500), API, count=3)
    said = Said()
    assert resolved(settings, said).commit
    assert said.statuses == ["retrying", "resolving"] * 3


def test_a_hub_that_stays_away_is_given_up(hub: HubServer, settings: Settings) -> None:
    hub.faults.add(faults.status(500), API)
    with pytest.raises(HubUnavailable):
        resolved(settings, Said())
    assert len(hub.hits(API)) == module.HUB_ATTEMPTS
