"""The clients in docs/progress.md are run as they stand there, against a server that is killed under them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from playwright.sync_api import BrowserContext

from hive.downloads.context import DownloadContext
from hive.wire.api import PROGRESS_PATH
from tests.support.downloads import claim, complete, create, downloading
from tests.support.processes import HiveProcess, Server, environment
from tests.support.programs import program
from tests.support.waiting import wait_for

ROOT = Path(__file__).parent.parent.parent
TEXT = (ROOT / "docs" / "progress.md").read_text()
#: Seconds that a client may take to end after the end.
END_S = 20.0


def samples(language: str) -> list[str]:
    found: list[str] = re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    return found


(PYTHON,) = samples("python")
BROWSER, NODE = samples("js")
CURL, CURL_LOOP = samples("sh")


class Restartable:
    """A server that comes back at its old address."""

    def __init__(self, env: dict[str, str]) -> None:
        self._env = env
        self.process: HiveProcess = Server(env)
        self.url = self.process.url
        self._wait()

    def kill_and_restart(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process.stop()
        self.process = HiveProcess("hive.cli", "serve", "--port", self.url.rpartition(":")[2], env=self._env)
        self._wait()

    def _wait(self) -> None:
        def ready() -> bool:
            try:
                return requests.get(f"{self.url}/readyz", timeout=60).ok
            except requests.ConnectionError:
                return False

        wait_for(ready, what="a server that is ready")


@pytest.fixture
def server(redis_url: str, tmp_path: Path) -> Iterator[Restartable]:
    made = Restartable(environment(redis_url, tmp_path, HIVE_DRAIN_S="0.2"))
    yield made
    made.process.stop()


class Sample:
    """A client from the documentation as a process; `lines` grows as it prints."""

    def __init__(self, command: list[str], env: dict[str, str], folder: Path) -> None:
        self._out = folder / "out"
        with self._out.open("wb") as out:
            self.process = subprocess.Popen(command, env={**os.environ, **env}, stdout=out, stderr=out, cwd=folder)

    @property
    def lines(self) -> list[str]:
        return self._out.read_text().splitlines()

    @property
    def events(self) -> list[dict[str, Any]]:
        found = [line.removeprefix("data: ") for line in self.lines if line.removeprefix("data: ").startswith("{")]
        return [json.loads(line) for line in found]


def command(language: str, folder: Path, url: str) -> list[str]:
    """How a sample is run; the address is its argument."""
    if language == "python":
        (folder / "sample.py").write_text(PYTHON)
        return [sys.executable, "sample.py", url]
    if language == "node":
        (folder / "sample.mjs").write_text(NODE)
        return [node(), "sample.mjs", url]
    program("curl")
    return ["sh", "-c", CURL_LOOP]


def node() -> str:
    """The Node that playwright brings: the test needs no other."""
    from playwright._impl._driver import compute_driver_executable

    return str(compute_driver_executable()[0])


@pytest.mark.slow
@pytest.mark.parametrize("language", ["python", "node", "curl"])
def test_the_client_sees_the_end_though_the_server_is_killed(
    language: str, server: Restartable, downloads: DownloadContext, tmp_path: Path
) -> None:
    download_id = create(downloads)
    url = f"{server.url}{PROGRESS_PATH}?id={download_id}"
    sample = Sample(command(language, tmp_path, url), {"HIVE": server.url, "ID": download_id}, tmp_path)
    try:
        wait_for(lambda: sample.events and sample.events[-1]["status"] == "queued")
        held = claim(downloads, download_id)
        downloads.claims.publish(held, 2, downloading(40))
        wait_for(lambda: sample.events[-1].get("bytes_downloaded") == 40)
        server.kill_and_restart()
        downloads.claims.publish(held, 3, downloading(70))
        wait_for(lambda: sample.events[-1].get("bytes_downloaded") == 70)
        downloads.claims.finish(held, 4, "complete", complete("/store/m.gguf"), "/store/m.gguf")
        assert sample.process.wait(END_S) == 0
    finally:
        sample.process.kill()
        sample.process.wait()
    assert sample.events[-1]["local_path"] == "/store/m.gguf"
    assert [event["stage"] for event in sample.events].count("complete") == 1


@pytest.mark.parametrize("language", ["python", "node"])
def test_the_client_gives_up_on_an_id_that_is_unknown(language: str, server: Restartable, tmp_path: Path) -> None:
    url = f"{server.url}{PROGRESS_PATH}?id=00000000-0000-4000-8000-000000000000"
    sample = Sample(command(language, tmp_path, url), {}, tmp_path)
    assert sample.process.wait(END_S) != 0
    assert "404" in "\n".join(sample.lines)


def test_one_curl_shows_one_connection(server: Restartable, downloads: DownloadContext, tmp_path: Path) -> None:
    program("curl")
    download_id = create(downloads)
    downloads.claims.finish(claim(downloads, download_id), 2, "complete", complete(), "/x")
    sample = Sample(["sh", "-c", CURL], {"HIVE": server.url, "ID": download_id}, tmp_path)
    assert sample.process.wait(END_S) == 0
    assert sample.lines[-2] == "data: [DONE]"


@pytest.mark.slow
def test_the_page_sees_the_end_and_closes_its_source(
    server: Restartable, downloads: DownloadContext, browser: BrowserContext
) -> None:
    download_id = create(downloads)
    page = browser.new_page()
    page.goto(f"{server.url}/healthz")
    page.evaluate(f"""(address) => {{
      {BROWSER}
      window.events = []; window.refused = 0;
      window.source = watch(address, (event) => events.push(event), () => {{ refused += 1; }});
      window.unknown = watch(address.slice(0, -1) + "x", () => {{}}, () => {{ refused += 1; }});
    }}""", f"{PROGRESS_PATH}?id={download_id}")  # fmt: skip
    page.wait_for_function("events.length === 1 && refused === 1")
    server.kill_and_restart()
    downloads.claims.finish(claim(downloads, download_id), 2, "complete", complete(), "/x")
    page.wait_for_function("source.readyState === EventSource.CLOSED")
    assert page.evaluate("events.map((event) => event.stage).join()").endswith("complete")
    assert page.evaluate("refused") == 1


def test_every_test_that_is_named_exists() -> None:
    named: Callable[[str], list[str]] = lambda text: re.findall(r"`(tests/[\w/]+\.py)`", text)  # noqa: E731
    assert len(named(TEXT)) > 10
    assert [path for path in named(TEXT) if not (ROOT / path).exists()] == []
