"""Health, workers, and the shape of everything that is refused."""

from __future__ import annotations

import time

import pytest
import requests

from hive.api.app import ROUTES
from hive.client import Client
from hive.downloads.context import DownloadContext
from hive.downloads.reaper import Reaper
from hive.downloads.registry import WorkerInfo, worker_registry
from hive.error_codes import all_errors
from hive.processes.embedded_redis import EmbeddedRedis
from hive.redis.client import RedisClient, connect
from hive.secrets import ensure_key
from hive.settings import Settings
from hive.version import VERSION
from hive.wire import keys
from tests.support.downloads import claim, complete, create, download_context
from tests.support.processes import Server, environment
from tests.support.sse_client import SseClient
from tests.support.waiting import AT_ONCE_S, wait_for


def test_health_is_the_contract(api: str) -> None:
    answer = requests.get(f"{api}/v1/health", timeout=60)
    assert answer.json() == {"status": "alive", "version": VERSION, "api_version": "v1"}
    assert requests.get(f"{api}/healthz", timeout=60).status_code == 200
    assert requests.get(f"{api}/readyz", timeout=60).json() == {"status": "ready"}


def test_an_autoscaler_is_told_what_waits_and_what_runs(api: str, downloads: DownloadContext) -> None:
    claim(downloads, create(downloads, "running"))
    create(downloads, "waiting")
    answer = requests.get(f"{api}/v1/scaling", timeout=60)
    assert answer.json() == {"queued": 1, "running": 1, "wanted_workers": 2}


def test_the_server_proves_the_key_of_its_home(api: str, settings: Settings) -> None:
    ensure_key(settings.secret_key_path)
    with Client(api) as client:
        assert client.proves(settings.secret_key_path.read_bytes().strip())
        assert not client.proves(b"another")
        assert not client.proves(b"")
    for nonce in ("", "short", "a" * 129, "a b" * 10):
        assert requests.get(f"{api}/v1/health", params={"nonce": nonce}, timeout=60).status_code == 400
    answer = requests.get(f"{api}/v1/health?nonce={'n' * 32}", timeout=60).json()
    assert set(answer) == {"status", "version", "api_version", "proof"}


def test_workers_that_fall_silent_disappear(api: str, store: RedisClient) -> None:
    registry = worker_registry(store)
    registry.beat(WorkerInfo(name="w1", host="h", pid=7, version=VERSION, seen_at=time.time()))
    registry.beat(WorkerInfo(name="w2", host="h", pid=8, version=VERSION, state="busy", download_id="d"))
    listed = requests.get(f"{api}/v1/workers", timeout=60).json()["data"]
    assert [(w["name"], w["state"], w["download_id"]) for w in listed] == [("w1", "idle", None), ("w2", "busy", "d")]
    store.delete("hive:worker:w1")
    assert [w["name"] for w in requests.get(f"{api}/v1/workers", timeout=60).json()["data"]] == ["w2"]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "NOT_FOUND"),
        ("GET", "/v1/nothing", 404, "NOT_FOUND"),
        ("GET", "/v1/../../etc/passwd", 404, "NOT_FOUND"),
        ("PUT", "/v1/models/download", 405, "METHOD_NOT_ALLOWED"),
        ("PATCH", "/v1/downloads", 405, "METHOD_NOT_ALLOWED"),
        ("POST", "/v1/models/download/progress", 405, "METHOD_NOT_ALLOWED"),
        ("GET", "/v1/models/download/progress?id=7", 404, "DOWNLOAD_NOT_FOUND"),
        ("GET", "/v1/downloads/progress?status=x", 400, "INVALID_REQUEST"),
        ("GET", "/v1/models/org/none", 404, "MODEL_NOT_ON_DISK"),
        ("DELETE", "/v1/models/org/none", 404, "MODEL_NOT_ON_DISK"),
        ("DELETE", "/v1/models/..%2F..%2Fetc", 404, "MODEL_NOT_ON_DISK"),
    ],
)
def test_every_refusal_has_the_same_shape(api: str, method: str, path: str, status: int, code: str) -> None:
    answer = requests.request(method, api + path, timeout=60)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert set(answer.json()["error"]) == {"code", "message", "details", "request_id", "type", "param"}
    assert answer.headers["x-request-id"] == answer.json()["error"]["request_id"]


def test_a_request_id_is_kept_unless_it_is_strange(api: str) -> None:
    def sent(value: str) -> str:
        return requests.get(f"{api}/v1/health", headers={"X-Request-ID": value}, timeout=60).headers["x-request-id"]

    assert sent("abc-123") == "abc-123"
    assert sent("a b") != "a b"
    assert len(sent("x" * 100)) == 32


def test_every_error_has_a_code_of_its_own_and_a_sentence() -> None:
    errors = all_errors()
    # One without a code of its own is a form of its parent: InvalidFields of BadRequest.
    own = [error for error in errors if "code" in vars(error) and error.__name__ not in ("HiveError", "InternalError")]
    codes = [error.code for error in own]
    assert len(codes) == len(set(codes))
    for error in errors:
        made = error()
        assert made.message.endswith((".", "?")), error
        assert made.code.isupper()
        assert 400 <= made.status < 600


def test_no_two_routes_are_the_same() -> None:
    pairs = [(route.path, method) for route in ROUTES for method in route.methods or ()]
    assert len(pairs) == len(set(pairs))


def test_without_redis_the_api_says_503_soon_and_health_stays_alive(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("r")
    with EmbeddedRedis(folder) as own:
        server = Server(environment(own.url, folder, HIVE_DRAIN_S="0"))
        server.wait_until_ready()
        own.kill()
        for path in ("/v1/downloads", "/readyz", "/v1/workers"):
            started = time.monotonic()
            answer = requests.get(server.url + path, timeout=60)
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "STORE_UNAVAILABLE")
            assert time.monotonic() - started < AT_ONCE_S
        assert (
            requests.post(f"{server.url}/v1/models/download", json={"model_ref": "hf:a/b"}, timeout=60).status_code
            == 503
        )
        assert requests.get(f"{server.url}/v1/health", timeout=60).status_code == 200
        own.launch()
        server.wait_until_ready()
        assert server.stop() == 0
    assert "Traceback" not in server.output


def test_a_replica_has_two_connections_to_redis_however_many_clients(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("c")
    with EmbeddedRedis(folder) as own, connect(own.url, max_connections=1) as client:
        downloads = download_context(client, ended_ttl_s=60, max_queued=100, lease_s=6)
        server = Server(environment(own.url, folder, HIVE_DRAIN_S="0"))
        server.wait_until_ready()
        ids = [create(downloads, f"model-{n}") for n in range(20)]
        streams = [SseClient(f"{server.url}/v1/models/download/progress?id={ids[n % 20]}") for n in range(200)]
        streams.append(SseClient(f"{server.url}/v1/downloads/progress?status=active"))
        wait_for(lambda: all(stream.events for stream in streams))
        ours = client.client_id()
        assert len([c for c in client.client_list() if int(c["id"]) != ours]) == 2
        assert server.stop() == 0


def test_the_list_of_downloads_stays_bounded(store: RedisClient) -> None:
    """Ended records expire; the list forgets them when it is read, and the reaper when nobody reads it."""
    downloads = download_context(store, ended_ttl_s=60, max_queued=100, lease_s=6)
    for number in range(30):
        download_id = create(downloads, f"model-{number}")
        downloads.claims.finish(claim(downloads, download_id), 2, "complete", complete(), "/x")
        store.delete(keys.record(download_id))  # as its expiry will
    assert store.zcard(keys.DOWNLOADS) == 30
    Reaper(downloads).forget_expired()
    assert store.zcard(keys.DOWNLOADS) == 0
