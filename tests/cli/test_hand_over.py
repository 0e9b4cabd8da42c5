"""Downloads that a server began, and that a command without one goes on with."""

from __future__ import annotations

from pathlib import Path

import pytest

from hive.client import Client
from hive.wire.api import Download
from hive.wire.events import Complete, Downloading, Error
from tests.hub import HubServer, faults
from tests.support.private_pull import SIZE_BYTES, pull
from tests.support.up import running_up
from tests.support.waiting import wait_for

#: What each connection gets while the server has the download.
SLOW = 500_000


@pytest.fixture
def up_env(env: dict[str, str], hub: HubServer) -> dict[str, str]:
    return env | {"HF_ENDPOINT": hub.endpoint}


@pytest.fixture
def alone(up_env: dict[str, str]) -> dict[str, str]:
    """The same where no server answers."""
    return up_env | {"HIVE_HOST": "127.0.0.1:1"}


@pytest.fixture
def paused_id(up_env: dict[str, str], hub: HubServer, tmp_path: Path) -> str:
    """A download that was paused in `hive up`, which has ended since."""
    hub.limit_rate_bytes_per_s = SLOW
    with running_up(up_env, tmp_path / "log", "--workers", "1") as up, Client(up.address) as client:
        download_id = client.download("org/name").download_id
        wait_for(lambda: arrived(client.get(download_id)) > 0, "the download does not begin")
        client.pause(download_id)
        wait_for(lambda: client.get(download_id).status == "paused", "it does not pause")
    hub.limit_rate_bytes_per_s = None
    return download_id


def arrived(download: Download) -> int:
    return download.progress.bytes_downloaded if isinstance(download.progress, Downloading) else 0


def seen_by_the_next_server(env: dict[str, str], log: Path, download_id: str, status: str) -> Download:
    with running_up(env, log, "--workers", "1") as up, Client(up.address) as client:
        found: Download = wait_for(
            lambda: one if (one := client.get(download_id)).status == status else None, f"it is not {status}"
        )
        assert client.downloads("active") == ([found] if status == "paused" else [])
        return found


def test_what_a_server_paused_and_a_command_finished_is_complete_for_the_next_server(
    paused_id: str, up_env: dict[str, str], alone: dict[str, str], tmp_path: Path
) -> None:
    result = pull(alone, "org/name")
    assert result.code == 0, result.err
    found = seen_by_the_next_server(up_env, tmp_path / "log2", paused_id, "complete")
    assert isinstance(found.progress, Complete)
    assert (found.progress.local_path, found.progress.bytes_total) == (result.out.strip(), SIZE_BYTES)
    assert found.local_path == result.out.strip()


def test_what_a_command_finished_and_somebody_deleted_since_is_over_and_says_why(
    paused_id: str, up_env: dict[str, str], alone: dict[str, str], tmp_path: Path
) -> None:
    assert pull(alone, "org/name").code == 0
    for path in sorted((Path(alone["HIVE_STORE"]) / "hub").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    found = seen_by_the_next_server(up_env, tmp_path / "log2", paused_id, "cancelled")
    assert isinstance(found.progress, Error)
    assert "has been deleted since" in found.progress.message


def test_a_pull_that_fails_leaves_a_paused_download_as_it_was(
    paused_id: str, up_env: dict[str, str], alone: dict[str, str], hub: HubServer, tmp_path: Path
) -> None:
    hub.faults.add(faults.status(404), "/api/models/*")
    assert pull(alone, "org/name").code == 1
    hub.faults.clear()
    seen_by_the_next_server(up_env, tmp_path / "log2", paused_id, "paused")
