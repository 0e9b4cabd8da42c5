"""What the tests of the command line share: a home of their own, a stand-in server, and ways to run `hive`."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hive.cli import run
from hive.settings import Settings
from tests.hub import HubServer
from tests.support.cli import COMMAND_TIMEOUT_S, Hive, Result, command
from tests.support.private_pull import CONTENT
from tests.support.standin_server import StandIn


@pytest.fixture
def home() -> Iterator[Path]:
    """A HIVE_HOME with a path that is short enough for a socket."""
    folder = Path(tempfile.mkdtemp(prefix="hive-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def hub() -> Iterator[HubServer]:
    """A stand-in of the Hub with one model of one variant."""
    with HubServer() as hub:
        hub.create("org/name", {"model-Q4_K_M.gguf": CONTENT, "README.md": b"hello"})
        yield hub


@pytest.fixture
def env(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment of commands: a home and a store of their own, and nothing of the machine's settings."""
    kept = ("PATH", "LANG", "PYTHONPATH", "VIRTUAL_ENV", "TERM", "TMPDIR")
    env = {name: os.environ[name] for name in kept if name in os.environ}
    env |= {"HIVE_HOME": str(home), "HIVE_STORE": str(tmp_path / "store"), "HOME": str(tmp_path)}
    for name in [name for name in os.environ if name.startswith(("HIVE_", "HF_", "REDIS_", "NO_COLOR"))]:
        monkeypatch.delenv(name)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    return env


@pytest.fixture
def server(env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """A stand-in server that HIVE_HOST names, and that has the key of HIVE_HOME."""
    with StandIn() as server:
        server.key = b"the key of this home"
        key_file = Path(env["HIVE_HOME"]) / "secret.key"
        key_file.write_bytes(server.key + b"\n")
        key_file.chmod(0o600)
        env["HIVE_HOST"] = server.address
        monkeypatch.setenv("HIVE_HOST", server.address)
        yield server


@pytest.fixture
def hive(env: dict[str, str], capfd: pytest.CaptureFixture[str]) -> Hive:
    """Runs a command line in this process."""

    def call(*args: str) -> Result:
        capfd.readouterr()
        code = run(args)
        return Result(code, *capfd.readouterr())

    return call


@pytest.fixture
def hive_process(env: dict[str, str]) -> Hive:
    """Runs a command line in a process of its own."""

    def call(*args: str, stdin: str = "", **more: str) -> Result:
        done = subprocess.run(
            command(*args), env=env | more, input=stdin, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S
        )
        return Result(done.returncode, done.stdout, done.stderr)

    return call


@pytest.fixture
def settings(env: dict[str, str]) -> Settings:
    """The settings of that environment."""
    return Settings.from_env(env)
