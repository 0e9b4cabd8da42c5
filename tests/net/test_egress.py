"""SSRF: no spelling of a private address is connected to."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hive.errors import DownloadError, UnsafeUrl
from hive.net.addresses import address_check, is_public
from hive.net.urls import parse_url
from tests.hub import HubServer
from tests.support.transfer import ONE, big, get, source
from workers.transfer import Network

PRIVATE = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "10.255.255.255",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.1.2.3",
    "168.63.129.16",
    "169.254.169.254",
    "169.254.170.2",
    "172.16.0.1",
    "172.31.255.254",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.0.1",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.1",
    "203.0.113.9",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:a9fe:a9fe",
    "::ffff:0:127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::10.0.0.1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2001:10::1",
    "2001:2::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:a00:1::",
    "2002:c0a8:1::1",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fd12:3456::1",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
    "ff05::2",
    "4000::1",
    "2600::5efe:127.0.0.1",
    "2600::200:5efe:10.0.0.1",
    "not-an-address",
    "1.2.3",
]

PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "93.184.216.34",
    "100.63.255.255",
    "100.128.0.1",
    "172.15.0.1",
    "172.32.0.1",
    "192.0.1.1",
    "198.17.0.1",
    "223.255.255.255",
    "2606:4700::1111",
    "2a00:1450:4001::200e",
    "::ffff:8.8.8.8",
    "64:ff9b::8.8.8.8",
    "2600::5efe:8.8.8.8",
]

#: Spellings of this machine in a URL; the parser or the resolver may refuse them, the connection must not happen.
SPELLINGS = [
    "127.0.0.1",
    "127.1",
    "127.0.1",
    "0",
    "0.0.0.0",
    "2130706433",
    "0x7f000001",
    "0x7f.0.0.1",
    "0x7f.1",
    "017700000001",
    "0177.0.0.1",
    "127.000.000.001",
    "127.0.0.1.",
    "localhost",
    "LOCALHOST",
    "localhost.",
    "LocalHost",
    "[::1]",
    "[::]",
    "[0:0:0:0:0:0:0:1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::127.0.0.1]",
    "[0:0:0:0:0:ffff:7f00:0001]",
    "127.127.127.127",
    "127.0.0.2",
    "%31%32%37.0.0.1",
    "①②⑦.0.0.1",
    "127。0。0。1",
    "good@127.0.0.1",
    "good:pw@127.0.0.1",
    "good.example\\@127.0.0.1",
    "127.0.0.1%00.good.example",
    "127.0.0.1%2egood",
    "[::1%25lo]",
    "[::1%lo]",
    "[fe80::1%25lo]",
    "0x7f.0x0.0x0.0x1",
    "0177.0.0.01",
    "127.0x1",
    "2130706433.",
    "00.0.0.0",
    "0x0",
    "0.0",
    "::1",
    "[::1",
]


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
