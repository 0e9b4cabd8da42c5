"""Models in memory under Compose: `docker compose --profile inference`, asked through the balancer."""

from __future__ import annotations

import json
import os
import threading
import time
from itertools import pairwise

import pytest
import requests

from tests.stack.compose import LOOK_S, Project, inspect, run
from tests.stack.images import ROOT
from tests.stack.world import ENGINE_MODEL, RECITED, REQUEST_S, World
from tests.support.waiting import wait_for

#: Seconds for the model to be fetched and loaded.
LOAD_S = 60.0
#: Tokens of an answer, which takes an engine some seconds.
TOKENS = 2048

pytestmark = pytest.mark.takes(240)


@pytest.fixture(scope="module")
def inference(quiet_world: World) -> Project:
    """The stack with a machine that runs models."""
    image = f"{os.environ.get('HIVE_TEST_IMAGE', 'hive')}-inference"
    run("docker", "build", "--quiet", "--build-arg", "EXTRAS=serve", "--tag", image, str(ROOT))
    quiet_world.project.env |= {
        "HIVE_INFERENCE_IMAGE": image,
        "HIVE_LLM_THREADS": "1",
        "HIVE_LLM_KEEP_FREE_BYTES": "0",
    }
    quiet_world.project("--profile", "inference", "up", "-d", "--no-recreate", "--no-deps", "inference")
    wait_for(lambda: quiet_world.get("/v1/devices")["devices"], "no machine runs models", LOAD_S, LOOK_S)
    return quiet_world.project


def test_tokens_come_through_the_balancer_one_by_one(quiet_world: World, inference: Project) -> None:
    start_s = time.monotonic()
    answer = requests.post(f"{quiet_world.url}/v1/workers/spawn", json={"model_ref": ENGINE_MODEL}, timeout=REQUEST_S)
    assert answer.status_code == 200, answer.text
    spawned = answer.json()
    (container,) = inference.containers("inference")
    assert spawned["url"].startswith(f"http://{inspect(container)['Config']['Hostname']}:")
    wait_for(lambda: _state(quiet_world) == "idle", "the model is not loaded", LOAD_S, LOOK_S)
    quiet_world.note("inference: a model asked for, fetched and loaded", time.monotonic() - start_s)

    events, at_s = _ask(quiet_world)
    text = "".join(str(event["t"]) for event in events if event["type"] == "token")
    assert text.encode() == b"".join(RECITED) * (TOKENS // len(RECITED))
    assert events[-1]["type"] == "end"
    whole_s = at_s[-1] - at_s[0]
    # What a proxy holds back comes in one piece, at the end.
    assert at_s[1] - at_s[0] < whole_s / 4, "the first token waited for others"
    assert len(at_s) > TOKENS / 8, "tokens came in heaps"
    assert max(later - sooner for sooner, later in pairwise(at_s)) < max(1.0, whole_s / 4)
    quiet_world.note(f"inference: {TOKENS} tokens through the balancer", whole_s)


def test_nobody_asks_its_workers_past_the_servers(quiet_world: World, inference: Project) -> None:
    """A neighbour in their network, without the token that servers show."""
    (container,) = inference.containers("inference")
    code = (
        "import sys, urllib.request as u, urllib.error as e\n"
        "try: u.urlopen(u.Request(sys.argv[1] + '/v1/inference', b'{}'), timeout=20)\n"
        "except e.HTTPError as error: print(error.code)"
    )
    (worker,) = quiet_world.get("/v1/workers/list")["workers"]
    assert run("docker", "exec", container, "python", "-c", code, worker["url"]).stdout.strip() == "401"


def test_a_container_that_is_stopped_lets_its_answers_end(quiet_world: World, inference: Project) -> None:
    (container,) = inference.containers("inference")
    got: list[list[dict[str, object]]] = []
    asking = threading.Thread(target=lambda: got.append(_ask(quiet_world)[0]), daemon=True)
    asking.start()
    wait_for(lambda: _state(quiet_world) == "busy", "nobody asks")
    # Without -t it is the compose file's own patience.
    run("docker", "stop", "--time", str(inspect(container)["Config"]["StopTimeout"]), container)
    asking.join(REQUEST_S)
    assert got[0][-1]["type"] == "end", got[0][-1]
    assert inspect(container)["State"]["ExitCode"] == 0, "it was killed"


def _state(quiet_world: World) -> str:
    workers = quiet_world.get("/v1/workers/list")["workers"]
    return str(workers[0]["state"]) if workers else ""


def _ask(quiet_world: World) -> tuple[list[dict[str, object]], list[float]]:
    """The events of a long answer; when the request was sent, and when each piece of the answer came."""
    body = {"prompt": "?", "model": ENGINE_MODEL, "max_tokens": TOKENS, "temperature": 0}
    at_s, events, rest = [time.monotonic()], [], b""
    with requests.post(f"{quiet_world.url}/v1/inference", json=body, timeout=REQUEST_S, stream=True) as answer:
        assert answer.status_code == 200, answer.text
        for piece in answer.iter_content(chunk_size=None):
            *blocks, rest = (rest + piece).split(b"\n\n")
            events += [block.removeprefix(b"data: ") for block in blocks if block != b":"]
            at_s.append(time.monotonic())
    assert events.pop() == b"[DONE]"
    return [json.loads(event) for event in events], at_s
