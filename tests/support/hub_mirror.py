"""Replicas of hive as a mirror of the Hub's stand-in, and tools that are sent to them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import requests

from hive.settings import Settings
from tests.hub.server import HubServer
from tests.support.processes import Server, Workers, environment
from tests.support.waiting import wait_for

#: Seconds for a client to come to its end on a busy machine.
CLIENT_S = 120


class Mirror:
    """The replicas, and how tools are sent to them."""

    def __init__(self, folder: Path, redis_url: str, hub: HubServer) -> None:
        self.hub = hub
        self.folder = folder
        self.env = environment(redis_url, folder, HF_ENDPOINT=hub.endpoint, HF_TOKEN="", HIVE_DRAIN_S="0.2")
        self.settings = Settings.from_env(self.env)
        with contextlib.ExitStack() as stack:
            self.workers = Workers(self.env, 3)
            stack.callback(self.workers.stop)
            self.servers = [
                Server(self.env),
                Server(self.env),
                Server({**self.env, "HF_ENDPOINT": "http://127.0.0.1:1"}),
            ]
            for server in self.servers:
                stack.callback(server.stop)
            for server in self.servers:
                server.wait_until_ready()
            wait_for(lambda: len(requests.get(f"{self.url}/v1/workers", timeout=60).json()["data"]) == 3)
            self._open = stack.pop_all()

    def stop(self) -> None:
        self._open.close()
        for process in (*self.servers, self.workers):
            assert "Traceback" not in process.output, process.output

    @property
    def url(self) -> str:
        """A replica."""
        return self.servers[0].url

    @property
    def other_url(self) -> str:
        """The other one."""
        return self.servers[1].url

    @property
    def url_without_hub(self) -> str:
        """One that cannot reach the Hub."""
        return self.servers[2].url

    def downloads(self, model: str) -> list[dict[str, Any]]:
        """What was downloaded of a model."""
        answer = requests.get(f"{self.url}/v1/downloads?limit=200&model={model}", timeout=60)
        found: list[dict[str, Any]] = answer.json()["data"]
        return found

    def client(self, url: str, home: Path, *command: str, token: str = "") -> subprocess.Popen[str]:
        """A tool of huggingface_hub's, as people run it, sent to a replica by one variable."""
        env = {"PATH": os.environ["PATH"], "HOME": str(home), "HF_HOME": str(home), "HF_ENDPOINT": url}
        if token:
            env["HF_TOKEN"] = token
        program = Path(sys.executable).parent / command[0]
        return subprocess.Popen(
            [str(program), *command[1:]], env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
