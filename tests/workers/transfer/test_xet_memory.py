"""What a process that fetches over Xet holds, measured from outside."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub import HubServer, PathFile
from tests.support.child import Child
from tests.support.content import MIB
from tests.support.xet_server import XetServer
from tests.support.xet_store import XetFile, need_hf_xet, xet_file
from workers.transfer import data_path

#: More than hf_xet would fetch ahead, left alone or with room for one block of each stream only.
CONTENT_BYTES = 320 * MIB
#: What a process may hold, whatever the file's size. Some 25 MiB of it are there before the first byte.
MOST_BYTES = 140 * MIB
#: Seconds that the fetch may take on a busy machine.
DEADLINE_S = 60.0

_CHILD = """
import sys
from pathlib import Path
from workers.transfer import Digest, HostPool, Limits, Location, Network, Source, Xet, fetch
url, token_url, xet_hash, size, sha256, partial = sys.argv[1:]
limits = Limits()
source = Source(lambda: Location(url), int(size), Digest("sha256", sha256), "file")
with HostPool(Network(), limits) as pool, Xet(lambda: Location(token_url), pool, limits) as xet:
    fetch(source, Path(partial), limits=limits, shared=pool, transports=[xet.transport(xet_hash, int(size))])
"""


@pytest.fixture
def file(hub: HubServer, tmp_path: Path) -> Iterator[XetFile]:
    """Bytes that do not recur, so that the store's blocks are full and each is needed once."""
    need_hf_xet()
    path = tmp_path / "content"
    with path.open("wb") as content:
        for _ in range(CONTENT_BYTES // MIB):
            content.write(os.urandom(MIB))
    yield xet_file(hub, tmp_path, PathFile(path))
    # pytest keeps the folders of the last runs.
    shutil.rmtree(tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_large_file_is_fetched_in_bounded_memory(file: XetFile, tmp_path: Path) -> None:
    from_folder = peak_bytes(file, tmp_path / "f")
    with XetServer(file.folder) as server:
        file.hub.api.xet_endpoint = server.endpoint
        over_http = peak_bytes(file, tmp_path / "g")
    print(f"{over_http / MIB:.0f} MiB over HTTP, {from_folder / MIB:.0f} MiB from a folder")
    assert over_http < MOST_BYTES
    assert from_folder < MOST_BYTES
    assert server.bytes_of_blocks() > CONTENT_BYTES
    assert file.bytes_over_http == 0


def peak_bytes(file: XetFile, partial: Path) -> int:
    """The most memory of its own that a process has held while it fetched the file."""
    content = file.content
    arguments = [file.source.locate().url, file.token_url, file.hash, str(content.size), content.sha256(), str(partial)]
    peak = 0
    deadline_s = time.monotonic() + DEADLINE_S
    with Child([sys.executable, "-c", _CHILD, *arguments]) as child:
        while child.poll() is None:
            peak = max(peak, held_bytes(child.pid))
            if time.monotonic() > deadline_s:
                child.kill()
            time.sleep(0.005)
    assert child.returncode == 0, "the fetch failed, or the digest was wrong"
    data_path(partial).unlink()
    return peak


def held_bytes(pid: int) -> int:
    """RssAnon: resident, and nobody else's. 0 for a process that has just ended."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0
