"""The release before goes on with what this one left, and this one with what that left: live processes of both, one
after the other, on one Redis and one store.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tarfile
from pathlib import Path

import pytest
import requests

from tests.hub.server import HubServer
from tests.support.processes import HiveProcess, Server, Workers, environment, stopping
from tests.support.release import ARCHIVES, RELEASES, environment_of
from tests.support.sse_client import SseClient
from tests.upgrade.models import CONTENTS, hub_with_models
from tests.upgrade.record import leave_downloads

#: The commit that each release was made of.
COMMITS = {"0.1.0": "8b376ac", "0.2.0": "60d9083"}
LAST = RELEASES[-1]
#: Bytes that an attempt may fetch again that goes on from another's: one that was stopped, and one that was killed.
AGAIN_BYTES = {"stopped": 1 << 20, "killed": 8 << 20}


def end(process: HiveProcess, how: str) -> None:
    """SIGTERM, or kill -9 with all that it forked."""
    if how == "killed":
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    process.stop()


@pytest.mark.parametrize(("way", "how"), [("upgrade", "stopped"), ("rollback", "stopped"), ("rollback", "killed")])
def test_downloads_of_one_release_go_on_under_the_other(way: str, how: str, tmp_path: Path, redis_url: str) -> None:
    with hub_with_models() as hub:
        this = environment(redis_url, tmp_path, HF_ENDPOINT=hub.endpoint, HF_TOKEN="", HIVE_LEASE_S="3")
        before = {**this, **environment_of(LAST, tmp_path)}
        first, then = (before, this) if way == "upgrade" else (this, before)
        server, workers = Server(first), Workers(first)
        try:
            server.wait_until_ready()
            ids = leave_downloads(server.url, hub)
        finally:
            end(workers, how)
            end(server, how)
        hub.limit_rate_bytes_per_s = None
        with stopping(Server(then)) as other, stopping(Workers(then)):
            assert isinstance(other, Server)
            ends = _see_them_out(other, ids)
        _judge(ends, hub, AGAIN_BYTES[how])


def _see_them_out(server: Server, ids: dict[str, str]) -> dict[str, dict[str, object]]:
    """Each download's end at this server, told once; the paused one is resumed."""
    server.wait_until_ready()
    answer = requests.post(f"{server.url}/v1/downloads/{ids['paused']}/resume", timeout=60)
    assert answer.status_code == 202, answer.text
    ends = {}
    for state, download_id in ids.items():
        client = SseClient(f"{server.url}/v1/models/download/progress?id={download_id}").wait(60)
        assert client.done == 1, state
        ends[state] = client.last
    return ends


def _judge(ends: dict[str, dict[str, object]], hub: HubServer, again_bytes: int) -> None:
    for state, last in ends.items():
        assert last["stage"] == "complete", (state, last)
        content = CONTENTS[state]
        assert Path(str(last["local_path"])).read_bytes() == b"".join(content.blocks(0, content.size)), state
        assert hub.bytes_sent(f"*{content.sha256()}*") <= content.size + again_bytes, state


@pytest.mark.parametrize("version", RELEASES)
def test_the_archive_of_a_release_is_what_the_history_has(version: str, tmp_path: Path) -> None:
    root = Path(__file__).parent.parent.parent
    command = ["git", "-C", str(root), "archive", COMMITS[version], "hive", "workers"]
    try:
        packed = subprocess.run(command, capture_output=True, timeout=60)
    except FileNotFoundError:
        pytest.skip("git is not installed")
    if packed.returncode:
        pytest.skip("this is no clone with the whole history")
    (tmp_path / "release.tar").write_bytes(packed.stdout)
    assert _files(tmp_path / "release.tar") == _files(ARCHIVES / f"hive-{version}.tar.xz")


def _files(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        members = [member for member in archive if member.isfile()]
        return {member.name: file.read() for member in members if (file := archive.extractfile(member)) is not None}
