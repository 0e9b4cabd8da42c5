"""The stand-in as a process of its own."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.hub import SyntheticFile
from tests.hub.content import read_all
from tests.hub.probe import probe
from tests.support.child import Child

#: Seconds in which the process must end after a signal.
EXIT_TIMEOUT_S = 60

ROOT = Path(__file__).parents[2]


@contextmanager
def running(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    """The process, and what its first line says."""
    command = [sys.executable, "-m", "tests.hub", *arguments]
    with Child(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, json.loads(process.stdout.readline())
        finally:
            process.kill()


def test_the_process_serves_folders_made_up_files_and_plain_urls(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "config.json").write_bytes(b"{}")
    folder = str(tmp_path)
    synthetic = "org/made/sub/model.gguf=100000"
    with running("--repo", f"org/name={folder}", "--synthetic", synthetic, "--plain", folder) as (_, address):
        hub = address["endpoint"]
        assert probe(f"{hub}/org/name/resolve/main/sub/config.json").body == b"{}"
        assert probe(f"{hub}/files/sub/config.json").body == b"{}"
        link = probe(f"{hub}/org/made/resolve/main/sub/model.gguf").headers["location"]
        assert link.startswith(address["cdn"])
        assert len(probe(link).body) == 100_000


def test_the_process_keeps_gated_files_from_those_without_its_token(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b"{}")
    with running("--repo", f"org/name={tmp_path}", "--gated", "org/name", "--token", "hf_mine") as (_, address):
        url = f"{address['endpoint']}/org/name/resolve/main/config.json"
        assert probe(url).status == 401
        assert probe(url, headers={"Authorization": "Bearer hf_mine"}).body == b"{}"


def test_the_process_limits_the_rate_and_ends_on_sigterm() -> None:
    with running("--synthetic", "org/name/m.gguf=200000", "--limit-rate", "1000000") as (process, address):
        link = probe(f"{address['endpoint']}/org/name/resolve/main/m.gguf").headers["location"]
        got = probe(link)
        assert got.body == read_all(SyntheticFile(200_000))
        assert got.at_s[-1] - got.at_s[0] > 0.1
        process.send_signal(signal.SIGTERM)
        assert process.wait(EXIT_TIMEOUT_S) == 0
