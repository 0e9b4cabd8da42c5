"""The servers that are fuzzed: one for one person, and one with keys, workers and a Hub."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from hive.auth.keys import KeyFile
from hive.redis.client import connect
from hive.settings import Settings
from tests.hub.content import SyntheticFile
from tests.hub.server import HubServer
from tests.support import api_samples
from tests.support.processes import Server, Workers, environment

#: Limits of requests would answer most of what is sent.
NO_LIMITS = {
    "HIVE_MAX_REQUESTS_PER_SECOND": "0",
    "HIVE_MAX_ANONYMOUS_REQUESTS_PER_SECOND": "0",
    "HIVE_MAX_DOWNLOAD_REQUESTS_PER_MINUTE": "0",
    "HIVE_DRAIN_S": "0.2",
    "HF_TOKEN": "",
}


class World(NamedTuple):
    """A server, what exists on it, and what a request needs."""

    server: Server
    known: dict[str, list[str]]
    headers: dict[str, str]


@contextlib.contextmanager
def alone(redis_url: str, folder: Path) -> Iterator[World]:
    """A server without keys and workers, with a download in each state and three models."""
    env = environment(redis_url, folder, **NO_LIMITS)
    with connect(redis_url) as client:
        api_samples.lay_out(client, Settings.from_env(env))
    known = {
        "downloads": [
            *(api_samples.QUEUED, api_samples.RUNNING, api_samples.PAUSED),
            *(api_samples.COMPLETE, api_samples.FAILED, api_samples.CANCELLED),
        ],
        "models": ["org/whole", "org/quants:Q4_K_M", "url/0123456789abcdef/file.gguf"],
        "refs": ["hf:org/new", "org/quants:Q8_0", "hf:org/whole@main", "https://example.org/a.gguf?key=1"],
    }
    with contextlib.closing(_Stopping(Server(env))) as stopping:
        stopping.server.wait_until_ready()
        yield World(stopping.server, known, {})


@contextlib.contextmanager
def shared(redis_url: str, folder: Path) -> Iterator[World]:
    """A server with keys, two workers and a Hub; the key may do everything."""
    with HubServer() as hub:
        for number in range(3):
            content = SyntheticFile(200_000, seed=number)
            hub.create(f"org/model-{number}", {"m-Q4_K_M.gguf": content, "m-Q8_0.gguf": content})
        env = environment(redis_url, folder, HF_ENDPOINT=hub.endpoint, **NO_LIMITS)
        key = KeyFile(folder / "home" / "keys.json").add("fuzzing", ("admin",)).text
        refs = [f"hf:org/model-{number}:{quant}" for number in range(3) for quant in ("Q4_K_M", "Q8_0", "Q2_K")]
        known = {"refs": [*refs, "hf:org/none"], "models": refs}
        with contextlib.closing(_Stopping(Server(env), Workers(env, 2))) as stopping:
            stopping.server.wait_until_ready()
            yield World(stopping.server, known, {"Authorization": f"Bearer {key}"})


class _Stopping:
    """Ends processes in order, and finds no traceback in what they said."""

    def __init__(self, server: Server, *others: Workers) -> None:
        self.server = server
        self._processes = (server, *others)

    def close(self) -> None:
        codes = [process.stop() for process in self._processes]
        assert codes == [0] * len(codes)
        for process in self._processes:
            at = process.output.find("Traceback")
            assert at < 0, process.output[max(0, at - 3000) : at + 5000]
