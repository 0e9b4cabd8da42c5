"""Addresses of hive's server as people write them."""

from __future__ import annotations

import os
import socket

import pytest

from hive.client.connection import server_url
from hive.net.server_address import parse_server_address
from hive.processes.peer import listener_uid


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("myserver", "http://myserver:8080"),
        ("myserver:9000", "http://myserver:9000"),
        ("myserver:80", "http://myserver"),
        ("10.0.0.7", "http://10.0.0.7:8080"),
        ("::1", "http://[::1]:8080"),
        ("[::1]", "http://[::1]:8080"),
        ("[::1]:9000", "http://[::1]:9000"),
        ("0.0.0.0:9000", "http://127.0.0.1:9000"),
        ("http://127.0.0.1:9988", "http://127.0.0.1:9988"),
        ("http://myserver", "http://myserver"),
        ("https://hive.example", "https://hive.example"),
        ("https://hive.example/models/", "https://hive.example/models"),
        ("  myserver \n", "http://myserver:8080"),
    ],
)
def test_an_address_means_what_people_mean(text: str, url: str) -> None:
    assert parse_server_address(text).url == server_url(text) == url


@pytest.mark.parametrize(
    "text", ["", ":8080", "ftp://host", "http://", "host:port", "host:99999", "a b", "host?x=1", "1:2:3", "unix:/x"]
)
def test_what_is_no_address_is_said(text: str) -> None:
    with pytest.raises(ValueError, match="no address of a server"):
        server_url(text)


def test_the_user_who_listens_on_the_loopback_is_known() -> None:
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with socket.socket(family) as listener:
            listener.bind((host, 0))
            listener.listen()
            address = f"[{host}]:{listener.getsockname()[1]}"
            assert listener_uid(address if family == socket.AF_INET6 else address[1:].replace("]", "")) == os.geteuid()
    assert listener_uid("192.0.2.1:80") is None
    assert listener_uid("no such host") is None
