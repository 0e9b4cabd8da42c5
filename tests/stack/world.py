"""The stack with two servers, three workers and a Hub, and what tests do with it."""

from __future__ import annotations

import hashlib
import os
import socket
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import requests

from hive.wire.events import Complete
from tests.hub.content import SyntheticFile
from tests.stack.audience import Audience
from tests.stack.compose import LOOK_S, Project, run
from tests.support.gguf_models import write_reciting
from tests.support.waiting import wait_for

ROOT: Final = Path(__file__).parents[2]
#: What names of projects begin with, and the one of the largest.
PROJECT: Final = "hive-stack-test"
#: Nobody's uid, in group 0, as some platforms give it to containers.
UID, GID = 12345, 0
SERVERS, WORKERS, DOWNLOADS_PER_WORKER = 2, 3, 2
#: Downloads of each trial: every worker has its hands full.
DOWNLOADS: Final = WORKERS * DOWNLOADS_PER_WORKER
MODEL_BYTES: Final = 24 << 20
#: Bytes per second of all workers together: a trial's downloads take 12 s by themselves.
RATE: Final = 12 << 20
#: What trials are called; each has models of its own.
TRIALS: Final = (
    *("killed-worker", "killed-server", "restarted-redis", "killed-redis"),
    *("rolling-restart", "cut-from-redis", "cut-from-cdn"),
)
#: A model for an engine, which says this for ever.
ENGINE_MODEL: Final = "hf:stack/endless/model.gguf"
RECITED: Final = (b"on", b" and")
#: Repositories of the Hub before those below, which are made up by their number.
OTHER_REPOSITORIES: Final = 1
MODELS: Final = [f"{trial}-{number}" for trial in TRIALS for number in range(DOWNLOADS)]
#: Seconds for one request.
REQUEST_S: Final = 30.0


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class World:
    """The running stack."""

    def __init__(self, folder: Path, name: str = PROJECT, servers: int = SERVERS, workers: int = WORKERS) -> None:
        self.models = folder / "cache" / "huggingface"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        #: What was measured and is not told yet.
        self.figures: list[str] = []
        #: Downloads that have ended, by their ids.
        self.ended: list[str] = []
        self._scale = ("--scale", f"api={servers}", "--scale", f"worker={workers}")
        self.project = Project(name, self.settings(self.port), "tests/stack/hub.yml")
        hub = " ".join(f"--synthetic stack/{name}/model.gguf={MODEL_BYTES}" for name in MODELS)
        repositories = folder / "repositories"
        (repositories / "endless").mkdir(parents=True)
        write_reciting(repositories / "endless" / "model.gguf", RECITED, endless=True)
        self.project.env |= {
            "STACK_ROOT": str(ROOT),
            "STACK_REPOSITORIES": str(repositories),
            "STACK_HUB_ARGUMENTS": f"{hub} --repo stack/endless=/repositories/endless",
            "HF_ENDPOINT": "http://hub:8000",
            "HIVE_ALLOW_HOSTS": "hub:8000,hub:8001",
            "HIVE_MAX_BYTES_PER_SECOND": str(RATE),
            "HIVE_WORKERS": str(DOWNLOADS_PER_WORKER),
        }

    def settings(self, port: int) -> dict[str, str]:
        """What every project of the tests sets."""
        return {
            "HIVE_MODELS": str(self.models),
            "HIVE_UID": str(UID),
            "HIVE_GID": str(GID),
            "HIVE_PORT": str(port),
            "HIVE_HTTPS_PORT": str(free_port()),
            "HIVE_IMAGE": os.environ.get("HIVE_TEST_IMAGE", "hive"),
        }

    def up(self) -> None:
        """All of it, and answering."""
        start_s = time.monotonic()
        self.project("up", "-d", *self._scale)
        self.wait_until_ready()
        self.note("start: ready", time.monotonic() - start_s)

    def wait_until_ready(self) -> None:
        """Both servers are in the balancer's reach, and a request through it is answered."""
        self.project.wait_until_healthy("api")
        wait_for(self._is_ready, "the balancer has no server that is ready", look_s=LOOK_S)

    def _is_ready(self) -> bool:
        try:
            return requests.get(f"{self.url}/readyz", timeout=REQUEST_S).status_code == 200
        except requests.ConnectionError:
            return False

    def ask(self, trial: str) -> dict[str, str]:
        """Ask for the models of a trial: their ids, and the name of each."""
        names = [name for name in MODELS if name.rpartition("-")[0] == trial]
        return {self.post(f"hf:stack/{name}/model.gguf")["download_id"]: name for name in names}

    def post(self, model_ref: str) -> dict[str, Any]:
        """Ask for one model."""
        answer = requests.post(f"{self.url}/v1/models/download", json={"model_ref": model_ref}, timeout=REQUEST_S)
        found: dict[str, Any] = answer.json()
        assert answer.status_code in (200, 202), found
        return found

    def get(self, path: str) -> dict[str, Any]:
        """The answer of one of the servers."""
        answer = requests.get(f"{self.url}{path}", timeout=REQUEST_S)
        found: dict[str, Any] = answer.json()
        assert answer.status_code == 200, found
        return found

    def limit(self, bytes_per_second: int) -> None:
        """What all workers together may take from now on."""
        body = {"bytes_per_second": bytes_per_second}
        answer = requests.put(f"{self.url}/v1/settings/bandwidth", json=body, timeout=REQUEST_S)
        assert answer.status_code == 200, answer.text

    def trial(self, name: str, strike: Callable[[Audience], None]) -> Audience:
        """Six downloads with two clients each, something that happens meanwhile, and all of them come to one end."""
        asked = self.ask(name)
        audience = Audience(self.url, asked)
        audience.wait_until_all_flow()
        start_s = time.monotonic()
        strike(audience)
        audience.wait()
        silence_s, whole_s = audience.longest_silence_s(start_s), time.monotonic() - start_s
        self.note(f"{name}: longest time without bytes of any download", silence_s)
        self.note(f"{name}: all {DOWNLOADS} downloads at their end after", whole_s)
        self.figures.append(f"{name}: clients came back {audience.reconnections} times")
        self._check(audience, asked)
        self.ended += asked
        return audience

    def forgotten(self, ids: Iterable[str]) -> list[str]:
        """Those of these downloads that Redis does not know any more."""
        known = {download["id"] for download in self.get("/v1/downloads?limit=200")["data"]}
        return [download_id for download_id in ids if download_id not in known]

    def _check(self, audience: Audience, asked: dict[str, str]) -> None:
        """One end for each client, and each file is what the Hub has, where the answer says, and its owner's."""
        assert [text for client in audience.clients for text in client.problems()] == []
        for client in audience.clients:
            last, name = client.witness.last, asked[client.download_id]
            assert isinstance(last, Complete), last
            path = Path(last.local_path)
            assert path.is_relative_to(self.models)
            assert hashlib.sha256(path.read_bytes()).hexdigest() == expected_sha256(name)
            found = path.stat()
            assert (found.st_uid, found.st_gid) == (UID, GID)

    def note(self, what: str, seconds: float) -> None:
        """A figure for the end of the session."""
        self.figures.append(f"{what}: {seconds:.1f} s")

    def restart(self, container: str) -> None:
        """As an upgrade does it: told to stop, and started again when it has."""
        run("docker", "restart", "--time", "30", container)


def expected_sha256(name: str) -> str:
    """The digest of a model, as the Hub's stand-in makes it up."""
    return SyntheticFile(MODEL_BYTES, seed=OTHER_REPOSITORIES + MODELS.index(name)).sha256()
