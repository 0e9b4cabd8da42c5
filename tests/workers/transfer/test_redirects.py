"""Redirects: what travels along, and what does not; and what becomes of a proxy."""

from __future__ import annotations

from pathlib import Path

import pytest

from hive.errors import DownloadError, UnsafeUrl
from hive.net.egress import Network, next_hop
from hive.net.proxies import Proxies
from hive.net.urls import parse_url
from tests.hub import HubServer, faults
from tests.support.content import KIB
from tests.support.transfer import ONE, QUICK, big, digest_of, get, source
from workers.transfer import Location, Source
from workers.transfer.http.redirects import signed_url_expiry

SECRETS = {"Authorization": "Bearer hf_canary", "X-Api-Key": "canary", "Cookie": "session=canary"}


def test_credentials_go_to_the_first_origin_only(hub: HubServer, tmp_path: Path) -> None:
    content = big()
    target = hub.plain("f", content, origin="cdn")
    url = hub.redirect("start", target)
    get(source(url, content, headers=SECRETS), tmp_path / "f")
    assert all(hit.headers.get("x-api-key") == "canary" for hit in hub.hits("/start"))
    at_cdn = hub.hits("/f", origin="cdn")
    assert at_cdn
    for hit in at_cdn:
        assert not {name.lower() for name in SECRETS} & set(hit.headers)
        assert "canary" not in str(hit.headers)


def test_credentials_stay_with_the_origin_across_its_own_redirects(hub: HubServer, tmp_path: Path) -> None:
    content = big()
    hub.plain("f", content)
    get(source(hub.redirect("start", "/f"), content, headers=SECRETS), tmp_path / "f", ONE)
    assert all(hit.headers.get("authorization") == "Bearer hf_canary" for hit in hub.hits("/f"))


def test_credentials_do_not_come_back_with_a_chain_that_returns(hub: HubServer, tmp_path: Path) -> None:
    content = big()
    back = hub.plain("f", content)
    over = hub.redirect("over", back, origin="cdn")
    get(source(hub.redirect("start", over), content, headers=SECRETS), tmp_path / "f", ONE)
    assert all("authorization" not in hit.headers for hit in hub.hits("/f"))


def test_a_cookie_that_a_server_sets_is_not_sent_back(hub: HubServer, tmp_path: Path) -> None:
    content = big()
    get(source(hub.plain("f", content), content), tmp_path / "f")
    assert all("cookie" not in hit.headers for hit in hub.hits("/f"))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_every_kind_of_redirect_is_followed_by_a_get(hub: HubServer, tmp_path: Path, status: int) -> None:
    content = big(64 * KIB)
    url = hub.redirect("start", hub.plain("f", content), status)
    assert get(source(url, content), tmp_path / "f").verified
    assert {hit.method for hit in hub.hits("*")} == {"GET"}


@pytest.mark.parametrize(("hops", "arrives"), [(10, True), (11, False)])
def test_ten_redirects_are_enough(hub: HubServer, tmp_path: Path, hops: int, arrives: bool) -> None:
    content = big(64 * KIB)
    url = hub.plain("f", content)
    for number in range(hops):
        url = hub.redirect(f"hop{number}", url)
    if arrives:
        assert get(source(url, content), tmp_path / "f").verified
    else:
        with pytest.raises(DownloadError, match="more than 10 times"):
            get(source(url, content), tmp_path / "f")


def test_a_redirect_loop_ends(hub: HubServer, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="redirects"):
        get(source(hub.redirect("loop", "/loop"), pinned=False), tmp_path / "f")
    assert len(hub.hits("/loop")) == 1


def test_a_circle_of_redirects_ends_when_it_comes_back(hub: HubServer, tmp_path: Path) -> None:
    hub.redirect("b", "/c")
    hub.redirect("c", "/a")
    with pytest.raises(DownloadError, match="in a circle"):
        get(source(hub.redirect("a", "/b"), pinned=False), tmp_path / "f")
    assert len(hub.hits()) == 3


@pytest.mark.parametrize("skip", [1, 4])
def test_a_loop_that_begins_later_is_final_when_no_connection_is_left(
    hub: HubServer, tmp_path: Path, skip: int
) -> None:
    content = big()
    url = hub.plain("f", content)
    rule = hub.faults.add(faults.redirect_to("/f"), "/f", skip=skip)
    with pytest.raises(DownloadError, match="in a circle"):
        get(source(url, content), tmp_path / "f", ONE)
    assert rule.struck <= 2


@pytest.mark.parametrize(
    "location",
    [
        "http://host/x",
        "ftp://host/x",
        "file:///etc/passwd",
        "https://user@host/",
        "https://good\\@host/",
        "\t//host\\x",
    ],
)
def test_a_redirect_to_something_unsafe_is_not_followed(location: str) -> None:
    with pytest.raises(UnsafeUrl):
        next_hop(parse_url("https://start.example/a"), location)


def test_a_relative_redirect_and_one_with_spaces_are_understood() -> None:
    start = parse_url("http://start.example/a/b?c")
    assert str(next_hop(start, "../d e.gguf")) == "http://start.example/d%20e.gguf"
    assert str(next_hop(start, "https://other.example:8443/x")) == "https://other.example:8443/x"
    assert str(next_hop(start, "/mod\u00c3\u00a8le")) == "http://start.example/mod%C3%A8le"


@pytest.mark.parametrize(
    ("query", "expiry"),
    [
        ("Expires=1700000000&Signature=x&Key-Pair-Id=y", 1_700_000_000),
        ("X-Amz-Date=20231114T221320Z&X-Amz-Expires=3600&X-Amz-Signature=x", 1_700_003_600),
        ("X-Goog-Date=20231114T221320Z&X-Goog-Expires=60&X-Goog-Signature=x", 1_700_000_060),
        ("se=2023-11-14T22%3A13%3A20Z&sig=x", 1_700_000_000),
        ("Expires=soon", None),
        ("Expires=1700000000" + "&a=b" * 150, None),
        ("X-Amz-Expires=3600", None),
        ("download=true", None),
        ("", None),
    ],
)
def test_the_expiry_of_a_signed_url_is_read(query: str, expiry: float | None) -> None:
    assert signed_url_expiry(f"https://cdn.example/f?{query}") == expiry


def test_no_secret_shows_in_the_text_of_a_source_or_an_error(tmp_path: Path) -> None:
    location = Location("http://127.0.0.1:9/f?Signature=canary", SECRETS)
    what = Source(lambda: location, 1, digest_of(big(1)), "f")
    with pytest.raises(DownloadError) as caught:
        get(what, tmp_path / "f", QUICK)
    for text in (
        repr(location),
        repr(what),
        str(caught.value),
        repr(caught.value.details),
        repr(parse_url(location.url)),
    ):
        assert "canary" not in text


def test_a_proxy_gets_the_request_and_no_proxy_goes_past_it(hub: HubServer, tmp_path: Path) -> None:
    content = big(64 * KIB)
    url = hub.plain("f", content)
    what = source(url, content)
    dead = "http://127.0.0.1:9"
    with pytest.raises(DownloadError, match=r"proxy|reached|timed out"):
        get(what, tmp_path / "f", network=Network(Proxies.parse(dead)))
    assert not hub.hits("/f")
    assert get(what, tmp_path / "f", network=Network(Proxies.parse(dead, no_proxy="127.0.0.1"))).verified


def test_the_environment_is_not_read(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = big(64 * KIB)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    netrc = tmp_path / "netrc"
    netrc.write_text("default login canary password canary\n")
    monkeypatch.setenv("NETRC", str(netrc))
    what = source(hub.plain("f", content), content, headers={"Authorization": "Bearer right"})
    assert get(what, tmp_path / "f", network=Network(user_agent="hive/test")).verified
    for hit in hub.hits("/f"):
        assert hit.headers["authorization"] == "Bearer right"
        assert hit.headers["user-agent"] == "hive/test"
        assert hit.headers["accept-encoding"] == "identity"
