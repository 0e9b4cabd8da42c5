"""A worker whose store is not the server's, because a mount is missing, brings nothing to nowhere; one that has not the
servers' secret says so.
"""

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


def test_a_key_that_cannot_be_used_is_told_when_a_worker_starts(service: Service, tmp_path: Path) -> None:
    key_file = tmp_path / "secret.key"
    key_file.write_text("no key")
    key_file.chmod(0o600)
    worker = HiveProcess("hive.cli", "worker", env={**service.env, "HIVE_SECRET_KEY_FILE": str(key_file)})
    try:
        wait_for(lambda: "downloads with a token will fail here" in worker.output, "it says nothing")
        assert "Set HIVE_SECRET_KEY_FILE" in worker.output
    finally:
        worker.stop()
