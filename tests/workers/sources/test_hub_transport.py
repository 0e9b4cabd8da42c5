"""The way to the Hub's API: bounded in time and size, and the token for one origin only."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import HfApi
from msgspec.structs import replace

from hive.errors import HubUnavailable
from hive.net.egress import Network
from hive.net.proxies import Proxies
from hive.settings import Settings
from hive.wire.refs import parse_ref
from tests.hub import DEFAULT_TOKEN, HubServer, faults
from tests.support.plans import plan_for
from tests.support.settings import settings_for
from workers import sources
from workers.fetch import network_for
from workers.sources import Plan, RetryLater, hub_transport

TREE = "/api/models/org/name/tree/*"


@pytest.fixture
def settings(tmp_path: Path, hub: HubServer) -> Settings:
    hub.create("org/name", {"README.md": b"# tiny\n"})
    return settings_for(tmp_path, HF_ENDPOINT=hub.endpoint)


def test_hive_says_who_it_is_and_asks_for_plain_replies(hub: HubServer, settings: Settings) -> None:
    plan_for(settings, "org/name")

    assert {hit.headers["user-agent"] for hit in hub.hits()} == {settings.user_agent}
    assert {hit.headers["accept-encoding"] for hit in hub.hits()} == {"identity"}


def test_threads_that_ask_at_once_share_one_client_and_its_connections(hub: HubServer, settings: Settings) -> None:
    """Each makes its way out anew, as the threads of a resolver do: none closes the client of the others."""

    def ask(_: int) -> Plan:
        return sources.resolve(
            parse_ref("org/name"), settings=settings, network=network_for(settings, guarded=False), token=None
        )

    with ThreadPoolExecutor(4) as pool:
        plans = list(pool.map(ask, range(40)))

    assert [plan.repo for plan in plans] == ["org/name"] * 40
    assert len({hit.connection_id for hit in hub.hits()}) <= 4


def test_without_a_token_none_is_looked_for(
    hub: HubServer, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of_somebody_else")

    plan_for(settings, "org/name")

    assert not any("authorization" in hit.headers for hit in hub.hits())


def test_the_token_goes_to_the_hub(hub: HubServer, settings: Settings) -> None:
    plan_for(settings, "org/name", token=DEFAULT_TOKEN)

    assert {hit.headers["authorization"] for hit in hub.hits()} == {f"Bearer {DEFAULT_TOKEN}"}


def test_a_next_page_at_another_origin_does_not_get_the_token(hub: HubServer, settings: Settings) -> None:
    with HubServer() as other:
        page = other.plain("/page", b"[]")
        link = {"Link": f'<{page}>; rel="next"', "Content-Type": "application/json"}
        hub.faults.add(faults.status(200, link, "[]"), TREE)

        with pytest.raises(HubUnavailable, match="without encryption"):
            plan_for(settings, "org/name", token=DEFAULT_TOKEN)

        assert other.hits() == []


def test_the_token_is_dropped_before_an_encrypted_stranger_is_asked() -> None:
    asked = []

    class Recorder(httpx2.BaseTransport):
        def handle_request(self, request: httpx2.Request) -> httpx2.Response:
            asked.append(request)
            return httpx2.Response(200, content=b"[]")

    transport = hub_transport.HubTransport(Recorder(), Network())
    with hub_transport.asking("https://hub.example"), httpx2.Client(transport=transport) as client:
        for url in ("https://hub.example/api", "https://stranger.example/api", "https://hub.example:8443/api"):
            client.get(url, headers={"Authorization": "Bearer secret", "Cookie": "session=secret"})

    assert ["authorization" in request.headers for request in asked] == [True, False, False]
    assert ["cookie" in request.headers for request in asked] == [True, False, False]


def test_other_users_of_huggingface_hub_in_the_process_are_left_alone(hub: HubServer, settings: Settings) -> None:
    plan_for(settings, "org/name")

    with HubServer() as other:
        other.create("org/theirs", {"a.txt": b"a"})
        assert HfApi(endpoint=other.endpoint, token=DEFAULT_TOKEN).list_repo_files("org/theirs") == ["a.txt"]
        assert "hf_hub" in other.hits()[0].headers["user-agent"]


def test_a_repository_that_was_renamed_is_followed(hub: HubServer, settings: Settings) -> None:
    hub.redirect("/api/models/org/old/revision/main", "/api/models/org/name/revision/main", 307)
    commit = hub.repos["org/name"].at("main").sha
    hub.redirect(f"/api/models/org/old/tree/{commit}", f"/api/models/org/name/tree/{commit}?recursive=true", 307)

    assert plan_for(settings, "org/old").commit == commit


def test_redirects_without_end_are_given_up(hub: HubServer, settings: Settings) -> None:
    hub.redirect("/api/models/org/loop/revision/main", "/api/models/org/loop/revision/main", 307)

    with pytest.raises(HubUnavailable):
        plan_for(settings, "org/loop")

    assert len(hub.hits("*loop*")) <= hub_transport.MAX_REDIRECTS + 1


def test_pages_without_end_are_given_up(hub: HubServer, settings: Settings) -> None:
    settings = replace(settings, max_listing_files=5)
    body = '[{"type": "file", "path": "a", "size": 1, "oid": "0000000000000000000000000000000000000000"}]'
    link = {"Link": f'<{hub.endpoint}/api/models/org/name/tree/again>; rel="next"'}
    hub.faults.add(faults.status(200, {**link, "Content-Type": "application/json"}, body), TREE)

    with pytest.raises(HubUnavailable, match="more than 5 files"):
        plan_for(settings, "org/name")


def test_empty_pages_without_end_are_given_up(
    hub: HubServer, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_transport, "MAX_REQUESTS", 20)
    link = {"Link": f'<{hub.endpoint}/api/models/org/name/tree/again>; rel="next"'}
    hub.faults.add(faults.status(200, {**link, "Content-Type": "application/json"}, "[]"), TREE)

    with pytest.raises(HubUnavailable, match="without end"):
        plan_for(settings, "org/name")

    assert len(hub.hits("*tree*")) == 20


def test_a_reply_that_trickles_is_given_up(hub: HubServer, settings: Settings) -> None:
    settings = replace(settings, hub_timeout_s=0.3, first_byte_timeout_s=0.3)
    hub.faults.add(faults.trickle(20), TREE)

    with pytest.raises(HubUnavailable, match="trickles"):
        plan_for(settings, "org/name")


def test_a_reply_that_is_too_long_is_given_up(
    hub: HubServer, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_transport, "MAX_REPLY_BYTES", 1 << 20)
    hub.faults.add(faults.status(200, {"Content-Type": "application/json"}, "[" + " " * (2 << 20) + "]"), TREE)

    with pytest.raises(HubUnavailable, match="more than 1 MiB"):
        plan_for(settings, "org/name")


def test_a_compressed_reply_is_refused(hub: HubServer, settings: Settings) -> None:
    hub.faults.add(faults.status(200, {"Content-Encoding": "gzip"}, "a bomb"), TREE)

    with pytest.raises(HubUnavailable, match="compressed"):
        plan_for(settings, "org/name")


@pytest.mark.parametrize("fault", [faults.slow_connect(30), faults.stall(0, 30)])
def test_a_silent_hub_is_given_up_in_time(hub: HubServer, settings: Settings, fault: faults.Fault) -> None:
    settings = replace(settings, first_byte_timeout_s=0.2)
    hub.faults.add(fault, TREE)

    with pytest.raises(HubUnavailable, match="did not answer in time"):
        plan_for(settings, "org/name")


def test_a_reply_that_breaks_off_is_no_reply(hub: HubServer, settings: Settings) -> None:
    hub.faults.add(faults.short_body(10), TREE)

    with pytest.raises(HubUnavailable, match="cannot be reached"):
        plan_for(settings, "org/name")


def test_an_overloaded_hub_that_says_when_to_return_is_obeyed(hub: HubServer, settings: Settings) -> None:
    hub.faults.add(faults.status(503, {"Retry-After": "3"}), TREE)

    with pytest.raises(RetryLater) as caught:
        plan_for(settings, "org/name")

    assert caught.value.seconds == 3


def test_the_rate_limit_header_of_the_hub_is_read(hub: HubServer, settings: Settings) -> None:
    hub.faults.add(faults.too_many_requests(reset_s=55), TREE)

    with pytest.raises(RetryLater) as caught:
        plan_for(settings, "org/name")

    assert caught.value.seconds == 55


def test_requests_go_through_the_proxy_unless_the_hub_is_excepted(hub: HubServer, settings: Settings) -> None:
    from hive.wire.refs import parse_ref
    from workers.sources import resolve

    with HubServer() as closed:
        proxy = closed.endpoint
    through = Network(Proxies.parse(proxy, proxy))
    around = Network(Proxies.parse(proxy, proxy, no_proxy="127.0.0.1"))

    with pytest.raises(HubUnavailable):
        resolve(parse_ref("org/name"), settings=settings, network=through)
    assert hub.hits() == []
    assert len(resolve(parse_ref("org/name"), settings=settings, network=around).files) == 1


def test_huggingface_hubs_own_environment_does_not_matter(hub: HubServer, settings: Settings) -> None:
    """Its variables are read when it is imported, so another process has to show it."""
    code = f"""
import sys
from hive.settings import Settings
from hive.wire.refs import parse_ref
from workers.sources import resolve
from hive.net.egress import Network
settings = Settings.from_env({{"HIVE_STORE": {str(settings.store_dir)!r}, "HF_ENDPOINT": {hub.endpoint!r}}})
print(len(resolve(parse_ref("org/name"), settings=settings, network=Network()).files))
"""
    strange = {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **strange, "HF_TOKEN": "hf_of_somebody_else"},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.stdout == "1\n", done.stderr
    assert not any("authorization" in hit.headers for hit in hub.hits())
