"""The client against a real HTTP server whose answers the test writes."""

from __future__ import annotations

import concurrent.futures
import contextlib
import inspect
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hive import errors
from hive.client import AsyncClient, Client, ServerUnreachable
from hive.client import watch as watch_module
from hive.client.connection import Connection, error_from, is_loopback, server_url
from hive.client.watch import BACKOFF_MAX_S, BACKOFF_MIN_S, Watch
from hive.error_codes import all_errors
from hive.wire.events import Complete, Error
from tests.support.ports import free_port
from tests.support.proxy import forward_proxy
from tests.support.standin_server import DONE, HOLD, ID, StandIn, complete, download, failed, frame, model, running
from tests.support.tls import Authority, tls_front
from tests.support.waiting import AT_ONCE_S, wait_for


@pytest.fixture
def server() -> Iterator[StandIn]:
    with StandIn() as server:
        yield server


@pytest.fixture
def client(server: StandIn) -> Iterator[Client]:
    with Client(server.url) as client:
        yield client


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "BACKOFF_MIN_S", 0.0)
    monkeypatch.setattr(watch_module, "BACKOFF_MAX_S", 0.02)


def unused_address() -> str:
    return f"127.0.0.1:{free_port()}"


def test_a_client_that_asks_too_often_waits_and_asks_again(server: StandIn, client: Client) -> None:
    server.errors["/v1/models"] = (429, {"code": "TOO_MANY_REQUESTS", "message": "Slow down.", "details": {}})
    with concurrent.futures.ThreadPoolExecutor() as pool:
        asked = pool.submit(client.models)
        wait_for(lambda: len(server.requests) >= 2)
        assert not asked.done()
        server.errors.clear()
        assert [found.id for found in asked.result(20)] == [server.models[0]["id"]]


def test_a_full_queue_is_told_at_once(server: StandIn, client: Client) -> None:
    server.errors["/v1/models/download"] = (429, {"code": "TOO_MANY_DOWNLOADS", "message": "Full.", "details": {}})
    with pytest.raises(errors.TooManyDownloads):
        client.download("hf:org/name")
    assert len(server.requests) == 1


def test_a_download_sends_only_what_was_given(server: StandIn, client: Client) -> None:
    started = client.download("hf:org/name", include=["*.gguf"])
    client.download("hf:org/name", revision="v1", exclude=("a", "b"), update=True, hf_token="hf_x", sha256="0" * 64)
    assert (started.download_id, started.local_path, started.joined) == (ID, None, False)
    assert server.bodies() == [
        {"model_ref": "hf:org/name", "include": ["*.gguf"]},
        {
            "model_ref": "hf:org/name",
            "revision": "v1",
            "exclude": ["a", "b"],
            "update": True,
            "hf_token": "hf_x",
            "sha256": "0" * 64,
        },
    ]


@pytest.mark.parametrize("given", [{"include": ["caf\udce9"]}, {"hf_token": "hf_\udce9"}], ids=str)
def test_a_text_that_is_none_is_refused_without_being_shown(
    server: StandIn, client: Client, given: dict[str, Any]
) -> None:
    with pytest.raises(errors.BadRequest, match="is not UTF-8") as refused:
        client.download("hf:org/name", **given)
    assert "udce9" not in str(refused.value)
    assert not server.requests


def test_a_watch_yields_every_event_to_the_end(server: StandIn, client: Client) -> None:
    server.streams = [[b"retry: 2000\n\n", frame(running(1)), b":\n\n", frame(running(2)), frame(complete()), DONE]]
    assert list(client.watch(ID)) == [running(1), running(2), complete()]


def test_a_stream_that_ends_without_done_is_opened_again_with_the_last_id(server: StandIn, client: Client) -> None:
    server.streams = [
        [frame(running(1), "5-1")],
        [b"retry: 1\n\n"],
        [frame(running(2), "5-2"), frame(complete(), "5-3"), DONE],
    ]
    pauses: list[float] = []
    assert list(client.watch(ID, on_wait=pauses.append)) == [running(1), running(2), complete()]
    assert [headers.get("last-event-id") for headers in server.stream_headers] == [None, "5-1", "5-1"]
    assert len(pauses) == 2


def test_a_stream_cut_inside_a_frame_loses_and_repeats_nothing(server: StandIn, client: Client) -> None:
    whole = frame(running(2), "1-2")
    server.streams = [[frame(running(1)), whole[: len(whole) // 2]], [whole, frame(complete(), "1-3"), DONE]]
    assert list(client.watch(ID)) == [running(1), running(2), complete()]


def test_the_end_is_told_once_although_the_stream_breaks_before_done(server: StandIn, client: Client) -> None:
    server.streams = [[frame(failed())], [frame(running(1)), DONE]]
    assert list(client.watch(ID)) == [failed()]
    assert len(server.stream_headers) == 1


def test_204_says_that_nothing_is_left(server: StandIn, client: Client) -> None:
    server.streams = [[frame(running(1), "1-1")], 204]
    assert list(client.watch(ID)) == [running(1)]


def test_a_server_that_is_away_for_a_moment_is_waited_for(server: StandIn, client: Client) -> None:
    server.streams = [503, 502, [frame(complete()), DONE]]
    assert list(client.watch(ID)) == [complete()]


def test_an_event_of_a_later_version_is_passed_over(server: StandIn, client: Client) -> None:
    server.streams = [[b'data: {"stage":"unpacking"}\n\n', b"data: not json\n\n", frame(complete()), DONE]]
    assert list(client.watch(ID)) == [complete()]


def test_an_unknown_id_ends_a_watch_at_once(server: StandIn, client: Client) -> None:
    server.errors["/v1/models/download/progress"] = (
        404,
        {"code": "DOWNLOAD_NOT_FOUND", "message": "No such.", "details": {}},
    )
    with pytest.raises(errors.DownloadNotFound, match="No such"):
        list(client.watch(ID))


def test_a_page_in_place_of_a_stream_is_not_taken_for_one(server: StandIn, client: Client) -> None:
    server.errors["/v1/models/download/progress"] = (200, "<html>")
    with pytest.raises(ServerUnreachable, match="is not hive"):
        list(client.watch(ID))


def test_a_watch_gives_up_a_server_that_stays_away() -> None:
    address = unused_address()
    with Client(address, patience_s=0.1) as client:
        started = time.monotonic()
        with pytest.raises(ServerUnreachable, match=address):
            list(client.watch(ID))
    assert 0.1 <= time.monotonic() - started < AT_ONCE_S


def test_a_watch_outlives_its_server(server: StandIn) -> None:
    server.streams = [[frame(running(1)), HOLD]]
    with Client(server.url, patience_s=0.1) as client:
        watch = client.watch(ID)
        assert next(watch) == running(1)
        server.stop()
        with pytest.raises(ServerUnreachable):
            next(watch)


def test_a_watch_that_is_left_closes_its_connection(server: StandIn, client: Client) -> None:
    server.streams = [[frame(running(1)), HOLD], [frame(complete()), DONE]]
    watch = client.watch(ID)
    assert next(watch) == running(1)
    watch.close()
    assert list(client.watch(ID)) == [complete()]


def test_lists_follow_their_pages_up_to_the_limit(server: StandIn, client: Client) -> None:
    server.downloads = [download(f"{at:08x}-2222-4333-8444-555555555555") for at in range(250)]
    assert len(client.downloads(limit=1000)) == 250
    assert [found.id[:8] for found in client.downloads(limit=3)] == ["00000000", "00000001", "00000002"]
    assert len(client.downloads("active", limit=150)) == 150


def test_a_record_of_a_newer_server_is_read_without_its_new_fields(client: Client) -> None:
    found = client.get(ID)
    assert (found.status, found.model_ref, found.ended_at) == ("downloading", "hf:org/name", None)
    assert found.progress == running(420, eta_seconds=65, bytes_per_second=2_000_000)


def test_ids_of_models_keep_their_slashes_colons_and_ats(server: StandIn, client: Client) -> None:
    server.models = [model("org/na me@v1.0:Q4_K_M")]
    assert client.model("org/na me@v1.0:Q4_K_M").size == 4_100_000_000
    assert client.delete_model("org/na me@v1.0:Q4_K_M").freed_bytes == 4_100_000_000
    assert [found.id for found in client.models()] == ["org/na me@v1.0:Q4_K_M"]


def test_a_companys_certificate_is_trusted_on_this_machine_too(
    server: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy on the loopback; the variables are those that count everywhere in hive."""
    authority = Authority(tmp_path)
    with tls_front(int(server.url.rpartition(":")[2]), authority.context()) as front:
        address = f"https://localhost:{front.port}"
        for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "HIVE_CA_FILE"):
            monkeypatch.delenv(name, raising=False)
        with Client(address) as stranger, pytest.raises(ServerUnreachable, match="certificate"):
            stranger.downloads()
        for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "HIVE_CA_FILE"):
            with monkeypatch.context() as set_one:
                set_one.setenv(name, f'"{authority.file}"')
                with Client(address) as friend:
                    friend.downloads()
        monkeypatch.setenv("SSL_CERT_FILE", os.devnull)
        with Client(address) as stranger, pytest.raises(ServerUnreachable, match="certificate"):
            stranger.downloads()


def test_variables_count_for_the_client_as_people_write_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HTTP_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    key = tmp_path / "key"
    key.write_text("hive_canary\n")
    key.chmod(0o600)
    monkeypatch.setenv("KEYS", str(tmp_path))
    for name, value in {"HIVE_HOST": "hive.test:80", "HIVE_API_KEY_FILE": "$KEYS/key", "HIVE_API_KEY": ""}.items():
        monkeypatch.setenv(name, f'"{value}"\r')
    with forward_proxy("me:pa%ss", answer=503) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"'{proxy.url('me:pa%25ss')}' ")
        with Client("hive.test:80") as client, pytest.raises(errors.HiveError, match="503"):
            client.health()
        assert [(asked.target, asked.credentials) for asked in proxy.asked] == [
            ("http://hive.test/v1/health", "me:pa%ss")
        ]
        assert client.has_key
        monkeypatch.setenv("NO_PROXY", '"10.0.0.0/8"')
        assert Connection("10.1.2.3").options()["proxy"] is None
        assert Connection("hive.test").options()["proxy"] is not None
    monkeypatch.setenv("HTTP_PROXY", "what is this")
    with pytest.raises(ValueError, match="HTTP_PROXY is not the URL of a proxy"):
        Client("hive.test")


def test_the_small_calls_answer(client: Client) -> None:
    assert client.health().version == "9.9"
    assert client.workers()[0].pid == 7
    assert client.cancel(ID).id == ID


@pytest.mark.parametrize("kind", [kind for kind in all_errors() if kind is not ServerUnreachable])
def test_every_error_comes_back_as_what_it_was(kind: type[errors.HiveError]) -> None:
    sent = kind("Because.", needed=3, message_of="x")
    body = b'{"error":{"code":"%s","message":"Because.","details":{"needed":3,"message":"y"}}}' % sent.code.encode()
    found = error_from(sent.status, body)
    assert (found.code, found.status, found.message) == (sent.code, sent.status, "Because.")
    assert isinstance(found, kind) or kind.code == "INTERNAL_ERROR" or "code" not in vars(kind)  # its parent's code
    assert found.details == {"needed": 3, "message": "y"}


def test_an_unknown_code_is_kept() -> None:
    found = error_from(418, b'{"error":{"code":"TEAPOT","message":"Short and stout."}}')
    assert (type(found), found.code, found.status) == (errors.HiveError, "TEAPOT", 418)
    assert errors.HiveError.code == "INTERNAL_ERROR"


def test_an_answer_of_something_else_says_so(server: StandIn, client: Client) -> None:
    server.errors["/v1/health"] = (200, "<html>hello</html>")
    with pytest.raises(ServerUnreachable, match="is not hive"):
        client.health()
    server.errors["/v1/health"] = (502, "<html>bad gateway</html>")
    with pytest.raises(errors.HiveError, match="502"):
        client.health()


def test_a_password_in_the_address_is_not_shown() -> None:
    address = unused_address()
    with Client(f"http://someone:secret@{address}") as client:
        with pytest.raises(ServerUnreachable) as caught:
            client.health()
        assert "secret" not in repr(client) + str(caught.value) + client.url
        assert address in str(caught.value)


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("hive.example", "http://hive.example:8080"),
        ("https://hive.example/prefix/", "https://hive.example/prefix"),
        ("0.0.0.0:80", "http://127.0.0.1"),
        ("[::]:8080", "http://[::1]:8080"),
        ("[::1]:8080", "http://[::1]:8080"),
    ],
)
def test_addresses_are_read_as_people_write_them(address: str, url: str) -> None:
    assert server_url(address) == url


@pytest.mark.parametrize("address", ["", "ftp://x", "http://", "http://x:notaport", "http://x:99999999"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="no address"):
        server_url(address)


def test_only_this_machine_is_loopback() -> None:
    assert [is_loopback(f"http://{host}") for host in ("127.0.0.1", "127.9.9.9", "[::1]", "localhost")] == [True] * 4
    assert [is_loopback(f"http://{host}") for host in ("10.0.0.1", "localhost.example", "example")] == [False] * 3


def test_pauses_grow_with_jitter_and_stay_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "BACKOFF_MIN_S", BACKOFF_MIN_S)
    monkeypatch.setattr(watch_module, "BACKOFF_MAX_S", BACKOFF_MAX_S)
    runs = [Watch(ID).lost() for _ in range(50)]
    watch = Watch(ID)
    grown = [watch.lost() for _ in range(40)]
    assert all(pause is not None and BACKOFF_MIN_S <= pause <= BACKOFF_MAX_S for pause in [*runs, *grown])
    assert len(set(runs)) > 40
    assert max(pause or 0 for pause in runs) <= 0.5 < max(pause or 0 for pause in grown)


@pytest.mark.anyio
async def test_the_async_client_does_the_same(server: StandIn) -> None:
    server.streams = [[frame(running(1), "1-1")], 503, [frame(complete(), "1-2"), DONE]]
    pauses: list[float] = []
    async with AsyncClient(server.url) as client:
        started = await client.download("hf:org/name")
        events = [event async for event in client.watch(started.download_id, on_wait=pauses.append)]
        assert events == [running(1), complete()]
        assert [headers.get("last-event-id") for headers in server.stream_headers] == [None, "1-1", "1-1"]
        assert len(pauses) == 2
        assert [found.id for found in await client.downloads(limit=5)] == [ID]
        assert (await client.get(ID)).id == (await client.cancel(ID)).id == ID
        assert (await client.models())[0].id == (await client.model("org/name:Q4_K_M")).id == "org/name:Q4_K_M"
        assert (await client.delete_model("org/name:Q4_K_M")).deleted
        assert (await client.workers())[0].name == "w1"
        assert (await client.health()).status == "alive"
        with pytest.raises(errors.DownloadNotFound):
            await client.get("0" * 36)


@pytest.mark.anyio
async def test_the_async_client_gives_up_too() -> None:
    async with AsyncClient(unused_address(), patience_s=0.05) as client:
        with pytest.raises(ServerUnreachable):
            _ = [event async for event in client.watch(ID)]


def test_a_terminal_event_has_its_type(server: StandIn, client: Client) -> None:
    server.streams = [[frame(complete()), DONE], [frame(failed(details={"free_bytes": 1})), DONE]]
    first, second = list(client.watch(ID)), list(client.watch(ID))
    assert isinstance(first[0], Complete)
    assert isinstance(second[0], Error)
    assert second[0].details == {"free_bytes": 1}


def _shape(kind: type) -> dict[str, list[tuple[str, object, object]]]:
    """The public methods of a client, with the names, kinds and defaults of their parameters."""
    methods = {name: method for name, method in vars(kind).items() if callable(method)}
    names = {name for name in methods if not name.startswith("_")} | {"__init__"}
    return {
        name: [(one.name, one.kind, one.default) for one in inspect.signature(methods[name]).parameters.values()]
        for name in sorted(names)
    }


def test_both_clients_have_the_same_methods_and_parameters() -> None:
    assert _shape(Client) == _shape(AsyncClient)


@pytest.mark.anyio
async def test_the_token_of_the_hub_goes_in_a_header_of_what_needs_it(server: StandIn, client: Client) -> None:
    client.models(hf_token="hf_canary")
    client.model("org/name:Q4_K_M", hf_token="hf_canary")
    async with AsyncClient(server.url) as other:
        await other.models(hf_token="hf_canary")
        await other.model("org/name:Q4_K_M", hf_token="hf_canary")
    assert server.hub_tokens == ["hf_canary"] * 4
    client.models()
    client.models(hf_token="")
    assert server.hub_tokens[4:] == [None, None]


@contextlib.contextmanager
def answers_and_closes(head: bytes) -> Iterator[str]:
    """The address of a server that says it is hive, with some proof, and closes each connection behind its answer."""
    body = b'{"status":"alive","version":"1","api_version":"v1","proof":"' + b"0" * 64 + b'"}'

    def serve(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65_536)
                    connection.sendall(head + b"\r\nContent-Type: application/json\r\n\r\n" + body)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(AT_ONCE_S)


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\nConnection: close", b"HTTP/1.0 200 OK", b"HTTP/1.1 200 OK"])
@pytest.mark.anyio
async def test_a_server_that_closes_behind_its_proof_has_proven_nothing_and_is_no_trouble(head: bytes) -> None:
    with answers_and_closes(head) as address:
        with Client(address) as client:
            assert not client.proves(b"the secret")
        async with AsyncClient(address) as other:
            assert not await other.proves(b"the secret")
        with (
            Client(address, api_key="hive_canary", secret=b"the secret") as client,
            pytest.raises(ServerUnreachable, match="not sent the key"),
        ):
            client.models()


@pytest.mark.anyio
async def test_the_async_client_sends_its_key_to_a_server_that_proves_a_secret_alone(server: StandIn) -> None:
    server.key = b"the secret"
    async with AsyncClient(server.url, api_key="hive_canary", secret=b"the secret") as client:
        await client.models()
        assert server.authorizations == [None, "Bearer hive_canary"]
        assert await client.proves(b"the secret")
        assert not await client.proves(b"another")
        server.authorizations.clear()
        server.key = b"another"
        with pytest.raises(ServerUnreachable, match="not sent the key"):
            await client.models()
        with pytest.raises(ServerUnreachable, match="not sent the key"):
            await client.download("hf:org/name", hf_token="hf_canary")
        assert not server.bodies()
        assert set(server.authorizations) == {None}
