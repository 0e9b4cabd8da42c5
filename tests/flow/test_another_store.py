"""A worker whose store is not the server's, because a mount is missing, brings nothing to nowhere."""

from __future__ import annotations

from pathlib import Path

from tests.hub.server import HubServer
from tests.support.processes import HiveProcess
from tests.support.service import Service
from tests.support.waiting import wait_for


def test_it_is_refused_with_both_paths_and_the_others_go_on(service: Service, hub: HubServer, tmp_path: Path) -> None:
    hub.create("org/name", {"config.json": b"{}"})
    elsewhere = tmp_path / "not-mounted"
    stranger = HiveProcess("hive.cli", "worker", env={**service.env, "HIVE_STORE": str(elsewhere)})
    try:
        wait_for(lambda: "another store" in stranger.output, "it says nothing", 30)
        assert str(elsewhere) in stranger.output
        assert service.env["HIVE_STORE"] in stranger.output
        assert stranger.wait() == 1
    finally:
        stranger.stop()
    assert service.bring("hf:org/name")["stage"] == "complete"
    assert len(service.listed_workers()) == 2
