"""SSRF: no spelling of a private address is connected to."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hive.errors import DownloadError, UnsafeUrl
from hive.net.addresses import address_check, is_public
from hive.net.egress import Network
from hive.net.urls import parse_url
from tests.hub import HubServer
from tests.support.addresses import PRIVATE, PUBLIC, SPELLINGS
from tests.support.transfer import ONE, big, get, source


@pytest.mark.parametrize("ip", PRIVATE)
def test_an_address_that_is_not_public_is_refused(ip: str) -> None:
    assert not is_public(ip)


@pytest.mark.parametrize("ip", PUBLIC)
def test_a_public_address_is_allowed(ip: str) -> None:
    assert is_public(ip)


def test_the_tables_are_as_long_as_they_should_be() -> None:
    assert len(PRIVATE) >= 60
    assert len(SPELLINGS) >= 45


def test_no_spelling_of_this_machine_reaches_the_canary(canary: tuple[int, list[Any]], tmp_path: Path) -> None:
    port, visits = canary
    network = Network(address_check=address_check(ports=range(1, 65536)))
    once = replace(ONE, attempts_max=1)
    for host in SPELLINGS:
        with pytest.raises((UnsafeUrl, DownloadError)):
            get(source(f"http://{host}:{port}/x", pinned=False), tmp_path / "f", once, network=network)
    assert visits == []
    # The canary does sing.
    with pytest.raises(DownloadError):
        get(source(f"http://127.0.0.1:{port}/x", pinned=False), tmp_path / "f", ONE)
    assert visits


def test_a_redirect_to_this_machine_is_refused(hub: HubServer, tmp_path: Path, canary: tuple[int, list[Any]]) -> None:
    port, visits = canary
    own = hub.endpoint.rpartition("/")[2]
    network = Network(address_check=address_check({own}, ports=range(1, 65536)))
    content = big()
    assert get(source(hub.plain("f", content), content), tmp_path / "f", network=network).verified
    for host in ("127.0.0.1", "localhost", "0x7f.1", "[::1]"):
        url = hub.redirect("away", f"http://{host}:{port}/x")
        with pytest.raises(UnsafeUrl):
            get(source(url, pinned=False), tmp_path / "g", ONE, network=network)
    assert visits == []


def test_a_name_that_resolves_to_a_public_and_a_private_address_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, canary: tuple[int, list[Any]]
) -> None:
    port, visits = canary

    def resolve(host: str, port: int, **_: object) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port)) for ip in ("8.8.8.8", "127.0.0.1")]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    network = Network(address_check=address_check(ports=range(1, 65536)))
    with pytest.raises(UnsafeUrl):
        get(source(f"http://rebind.example:{port}/x", pinned=False), tmp_path / "f", ONE, network=network)
    assert visits == []


def test_a_resolver_that_flips_is_asked_once_per_connection(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, canary: tuple[int, list[Any]]
) -> None:
    """The address that was checked is the one that is connected to; nobody resolves again in between."""
    port, visits = canary
    asked: list[str] = []
    checked: list[str] = []

    def resolve(host: str, port: int, **_: object) -> list[Any]:
        asked.append(host)
        ip = "127.0.0.3" if len(asked) % 2 else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    connected: list[str] = []
    connect = socket.socket.connect

    def spy(self: socket.socket, address: Any) -> None:
        connected.append(address[0])
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", spy)
    network = Network(address_check=lambda ip, host, port: checked.append(ip))
    with pytest.raises(DownloadError):
        get(source(f"http://flips.example:{port}/x", pinned=False), tmp_path / "f", ONE, network=network)
    assert connected == checked
    assert len(asked) == len(checked)
    assert visits


def test_allowed_hosts_may_be_private_and_ports_are_limited() -> None:
    check = address_check({"models.lan", "nas.lan:9000", "[fd00::1]:81"})
    check("10.0.0.1", "models.lan", 443)
    check("10.0.0.1", "MODELS.lan.", 8080)
    check("10.0.0.1", "nas.lan", 9000)
    check("fd00::1", "[fd00::1]", 81)
    check("1.1.1.1", "example.org", 443)
    for ip, host, port in (
        ("10.0.0.1", "other.lan", 443),
        ("10.0.0.1", "models.lan", 6379),
        ("10.0.0.1", "nas.lan", 443),
        ("1.1.1.1", "example.org", 22),
        ("10.0.0.1", "evil.models.lan", 443),
    ):
        with pytest.raises(UnsafeUrl):
            check(ip, host, port)


@pytest.mark.parametrize(
    "text",
    [
        "http://good\\@127.0.0.1/",
        "http://user@host/",
        "http://user:pw@host/",
        "ftp://host/",
        "file:///etc/passwd",
        "//host/path",
        "http:///path",
        "http://host:99999/",
        "http://host:0/",
        "http://host\n/",
        "http://ho st/",
        "http://host/\0",
        "http://host/\t",
        "http://[::1/",
        "http://[::1]x/",
        "http://[::ffff:127.1]/",
        "http://[1]/",
        "http://[::ffff:256.0.0.1]/",
        "http://[1:2:3:4:5:6:7:8:9]/",
        "http://[..]/",
        "http://ex\u00e4mple/",
        "http://a" + "b" * 300 + "/",
        "http://host/" + "x" * 20_000,
        "",
    ],
)
def test_a_url_that_two_parsers_may_read_differently_is_refused(text: str) -> None:
    with pytest.raises(UnsafeUrl) as caught:
        parse_url(text)
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "rebuilt"),
    [
        ("HTTP://Host.Example:80/a?b=c#d", "http://host.example/a?b=c"),
        ("https://host:443", "https://host/"),
        ("https://host?x=1", "https://host/?x=1"),
        (
            "https://host/a%2Fb/../c?Signature=a~b-c_&Key-Pair-Id=K",
            "https://host/a%2Fb/../c?Signature=a~b-c_&Key-Pair-Id=K",
        ),
        ("http://[2001:DB8::1]:8080/", "http://[2001:db8::1]:8080/"),
        ("https://host/modèle.gguf", "https://host/mod%C3%A8le.gguf"),
    ],
)
def test_a_plain_url_is_rebuilt_as_it_was(text: str, rebuilt: str) -> None:
    assert str(parse_url(text)) == rebuilt


def unresolved(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine resolves nothing, as behind many a proxy."""

    def refuse(*_: object, **__: object) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.parametrize(
    "name",
    [
        *(
            "intranet",
            "localhost",
            "a.localhost",
            "nas.local",
            "vault.internal",
            "wiki.corp",
            "router.lan",
            "x.home.arpa",
        ),
        *("x.home.arpa", "redis.default.svc.cluster.local", "wiki.corp.", "WIKI.Corp", "printer.home", "hidden.onion"),
        *(
            "127.0.0.1.nip.io",
            "app-10-0-0-1.sslip.io",
            "10-0-0-1.nip.io",
            "a.169.254.169.254.xip.io",
            "7f000001.nip.io",
        ),
        *("2130706433", "0x7f.1", "0177.0.0.1", "127.1", "0x7f000001", "::1", "fd00::1"),
        *("1.0.0.127.in-addr.arpa", "ipv4only.arpa", "redis.prod.svc", "vault.service.consul", "db.dc1", "x.y.0x7f"),
        *(
            "--1.sslip.io",
            "fe80--1.sslip.io",
            "7f000001.c0a80001.rbndr.us",
            "localtest.me",
            "a.lvh.me",
            "nas.tail.ts.net",
        ),
        "a..example.org",
    ],
)
def test_a_name_that_nobody_here_resolves_goes_to_no_proxy_where_it_is_a_private_ones(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    unresolved(monkeypatch)
    with pytest.raises(UnsafeUrl, match="HIVE_ALLOW_HOSTS"):
        Network(address_check=address_check()).check_proxied(name, 443)
    Network(address_check=address_check({name})).check_proxied(name, 443)


@pytest.mark.parametrize(
    "name", ["huggingface.co", "cas-bridge.xethub.hf.co", "models.example.org", "a1b2c3d4.cloudfront.net", "x.xn--p1ai"]
)
def test_a_name_of_the_internet_that_only_a_proxy_resolves_goes_there_if_its_port_may(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    unresolved(monkeypatch)
    network = Network(address_check=address_check())
    network.check_proxied(name, 443)
    with pytest.raises(UnsafeUrl, match="port 6379"):
        network.check_proxied(name, 6379)
    strict = Network(address_check=address_check(), proxy_unresolved=False)
    with pytest.raises(UnsafeUrl, match="HIVE_ALLOW_HOSTS"):
        strict.check_proxied(name, 443)
    Network().check_proxied(name, 6379)
