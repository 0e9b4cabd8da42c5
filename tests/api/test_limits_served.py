"""Limits of keys as clients meet them: a server with two keys, and small limits."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from hive.auth.keys import KeyFile
from hive.downloads.context import DownloadContext
from hive.downloads.resolutions import Resolutions
from hive.downloads.service import MAX_WAITING_PLANS_OF_ONE
from hive.processes.embedded_redis import EmbeddedRedis
from hive.settings import Settings
from tests.support.downloads import new
from tests.support.gguf_models import write_reciting
from tests.support.processes import Server, environment
from tests.support.store import put
from tests.support.waiting import wait_for

SMALL = {
    "HIVE_MAX_STREAMS_PER_KEY": "3",
    "HIVE_MAX_MANY_STREAMS_PER_KEY": "2",
    "HIVE_MAX_LONG_POLLS_PER_KEY": "2",
    "HIVE_MAX_QUEUED_PER_KEY": "2",
}
#: Rates so small that no machine is too slow to reach them: a key may ask once in twenty seconds.
RATES = {"HIVE_MAX_REQUESTS_PER_SECOND": "0.05", "HIVE_MAX_ANONYMOUS_REQUESTS_PER_SECOND": "0.02"}

NAMES = ("alice", "bob", "carol", "dave")


@pytest.fixture(params=[SMALL])
def keyed(
    redis_server: EmbeddedRedis, redis_url: str, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[tuple[Server, list[dict[str, str]]]]:
    """The server with these limits, and the headers of those who have keys."""
    env = environment(redis_server.url, tmp_path, HIVE_KEEPALIVE_S="0.5", **request.param)
    file = KeyFile(Path(env["HIVE_HOME"]) / "keys.json")
    texts = [file.add(name, ["read", "pull", "run"], owner=name).text for name in NAMES]
    server = Server(env)
    server.wait_until_ready()
    yield server, [{"Authorization": f"Bearer {text}"} for text in texts]
    assert server.stop() == 0
    assert "Traceback" not in server.output


def _wait_until_taken(
    stream: Callable[[dict[str, str], str], requests.Response], headers: dict[str, str], path: str
) -> None:
    wait_for(lambda: stream(headers, path).status_code == 200)


def test_a_key_has_its_share_of_everything(
    keyed: tuple[Server, list[dict[str, str]]], downloads: DownloadContext
) -> None:
    server, (alice, bob, carol, dave) = keyed
    ids = {owner: downloads.tracker.create(new(owner, owner=owner))[0] for owner in ("alice", "bob", "carol")}

    def stream(headers: dict[str, str], path: str, accept: str = "*/*") -> requests.Response:
        return requests.get(f"{server.url}{path}", headers=headers | {"Accept": accept}, stream=True, timeout=60)

    def refused(answer: requests.Response, code: str) -> None:
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, code)
        assert int(answer.headers["retry-after"]) >= 1

    for path, share in ((f"/v1/models/download/progress?id={ids['alice']}", 3), ("/v1/downloads/progress", 2)):
        mine = [stream(alice, path) for _ in range(share)]
        assert [answer.status_code for answer in mine] == [200] * share
        refused(stream(alice, path), "TOO_MANY_STREAMS")
        page = stream(alice, path, "text/event-stream")
        assert (page.status_code, page.text) == (200, "retry: 5000\n\n")
        other = stream(bob, path.replace(ids["alice"], ids["bob"]))
        assert other.status_code == 200
        mine.pop().close()
        _wait_until_taken(stream, alice, path)
        for answer in (*mine, other):
            answer.close()

    poll = f"{server.url}/v1/downloads/{ids['carol']}?wait=50s"

    def hold() -> None:
        while requests.get(poll, headers=carol, timeout=60).status_code == 429:
            pass

    waiting = [threading.Thread(target=hold) for _ in range(2)]
    for thread in waiting:
        thread.start()
    wait_for(lambda: requests.get(poll.replace("50s", "0.1s"), headers=carol, timeout=60).status_code == 429)
    refused(requests.get(poll, headers=carol, timeout=60), "TOO_MANY_REQUESTS")

    posts = [
        requests.post(f"{server.url}/v1/models/download", json={"model_ref": f"a/b{n}"}, headers=dave, timeout=60)
        for n in range(3)
    ]
    assert [answer.status_code for answer in posts][:2] == [202, 202]
    refused(posts[-1], "TOO_MANY_DOWNLOADS")

    for answer_thread in waiting:
        requests.delete(f"{server.url}/v1/downloads/{ids['carol']}", headers=carol, timeout=60)
        answer_thread.join(30)


def test_a_key_has_its_share_of_the_plans_that_wait(
    keyed: tuple[Server, list[dict[str, str]]], downloads: DownloadContext
) -> None:
    server, (alice, bob, *_) = keyed
    Resolutions(downloads.client).alive()  # and never answers

    def plan(headers: dict[str, str], timeout_s: float) -> requests.Response:
        return requests.post(
            f"{server.url}/v1/models/plan", json={"model_ref": "org/name"}, headers=headers, timeout=timeout_s
        )

    waiting = [threading.Thread(target=plan, args=(alice, 60.0), daemon=True) for _ in range(MAX_WAITING_PLANS_OF_ONE)]
    for thread in waiting:
        thread.start()
    wait_for(lambda: len(downloads.client.keys("hive:plan:*")) == len(waiting), "they wait")
    refused = plan(alice, 10.0)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "TOO_MANY_REQUESTS")
    assert int(refused.headers["retry-after"]) >= 1
    with pytest.raises(requests.ReadTimeout):
        plan(bob, 1.0)  # waits as anybody does
    for thread in waiting:
        thread.join(60.0)
    Resolutions(downloads.client).alive()
    with pytest.raises(requests.ReadTimeout):
        plan(alice, 1.0)


@pytest.mark.parametrize("keyed", [RATES], indirect=True)
def test_who_asks_too_often_is_told_and_others_go_on(keyed: tuple[Server, list[dict[str, str]]]) -> None:
    server, (alice, bob, *_) = keyed

    def get(path: str, headers: dict[str, str]) -> requests.Response:
        return requests.get(server.url + path, headers=headers, stream=True, timeout=60)

    def status(path: str, headers: dict[str, str]) -> int:
        return get(path, headers).status_code

    assert [status("/v1/downloads", alice) for _ in range(4)] == [200, 429, 429, 429]
    page = get("/v1/downloads/progress", alice | {"Accept": "text/event-stream"})
    assert (page.status_code, page.text) == (200, "retry: 5000\n\n"), "a status would end an EventSource for good"
    assert status("/v1/downloads/progress", alice) == 429
    assert status("/v1/downloads", bob) == 200
    assert [status("/v1/health", {}) for _ in range(3)] == [200, 429, 429]
    assert {status("/readyz", {}) for _ in range(10)} == {200}
    wait_for(lambda: status("/v1/downloads", alice) == 200, "it may ask again")


#: So small that the second request is refused, on any machine.
ASKS = {"HIVE_MAX_DOWNLOAD_REQUESTS_PER_MINUTE": "0.001", "HIVE_AUTOLOAD": "true"}
QUESTION = {"messages": [{"role": "user", "content": "?"}]}


@pytest.mark.parametrize("keyed", [ASKS], indirect=True)
@pytest.mark.parametrize(
    ("path", "name"), [("/v1/chat/completions", "hf:org/small:Q4_K_M"), ("/api/chat", "hf.co/org/small:Q4_K_M")]
)
def test_a_model_that_is_loaded_because_somebody_asks_it_counts_as_a_request_for_one(
    keyed: tuple[Server, list[dict[str, str]]], redis_server: EmbeddedRedis, tmp_path: Path, path: str, name: str
) -> None:
    server, (alice, *_) = keyed
    content = write_reciting(tmp_path / "m.gguf", [b"a"]).read_bytes()
    put(Settings.from_env(environment(redis_server.url, tmp_path)), "org/small", {"m-Q4_K_M.gguf": content})

    def ask() -> requests.Response:
        return requests.post(f"{server.url}{path}", json={"model": name, **QUESTION}, headers=alice, timeout=60)

    assert "BACKEND_UNAVAILABLE" in ask().text, "no machine runs models"
    assert ask().status_code == 429
