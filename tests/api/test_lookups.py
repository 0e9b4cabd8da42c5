"""Looking on the disk for what is asked never holds up the rest of the process."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import requests

from hive.settings import Settings
from hive.wire.selection import MAX_NEAR_MISSES, near_misses
from tests.support.processes import Server
from tests.support.store import put, put_tree
from tests.support.waiting import AT_ONCE_S


def cpu_s(process: Server) -> float:
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def test_forty_missing_paths_of_a_large_repository_leave_the_api_awake(
    api: str, settings: Settings, server: Server
) -> None:
    files = {f"data/part-{number:05d}/weights-of-the-model.safetensors": b"" for number in range(20_000)}
    put(settings, "org/large", {"config.json": b"{}"})
    put_tree(settings, "org/large", files)
    before_s = cpu_s(server)
    answers: list[int] = []

    def ask(number: int) -> None:
        body = {"model_ref": f"hf:org/large/data/part-x{number}/weights-of-a-model.safetensors"}
        answers.append(requests.post(f"{api}/v1/models/download", json=body, timeout=60).status_code)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(40)]
    for thread in threads:
        thread.start()
    longest_s = 0.0
    while any(thread.is_alive() for thread in threads):
        began_s = time.monotonic()
        assert requests.get(f"{api}/v1/health", timeout=60).status_code == 200
        longest_s = max(longest_s, time.monotonic() - began_s)
        threads[0].join(0.02)
    assert answers == [202] * 40
    assert longest_s < AT_ONCE_S
    assert cpu_s(server) - before_s < 20.0, "0.5 s each; comparing all names took 5 s each"


def test_near_misses_are_found_in_bounded_time() -> None:
    paths = [f"data/part-{number:06d}/weights-of-the-model.safetensors" for number in range(200_000)]
    paths += ["model.Q4_K_M.gguf", "deep/down/tokenizer.json"]
    began_s = time.process_time()
    assert near_misses("modle.Q4_K_M.gguf", paths)[0] == "model.Q4_K_M.gguf"
    assert near_misses("tokenizer.json", paths)[0] == "deep/down/tokenizer.json"
    assert len(near_misses("data/part-x/weights-of-the-model.safetensors", paths)) == MAX_NEAR_MISSES
    assert near_misses("x" * 4000, ["y" * 4000] * 10_000) == []
    assert time.process_time() - began_s < 10
