"""The loopback as a network: a Hub over http and https, and every client that hive has of it, each used once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest

from hive.net.egress import Network
from hive.net.urls import parse_url
from hive.settings import Settings
from hive.webhooks.delivery import post
from hive.wire.refs import parse_ref
from tests.hub import HubServer
from tests.support.tls import Authority, TlsFront
from workers.fetch import limits_of, network_for
from workers.sources import resolve
from workers.transfer import Limits, fetch


class World(NamedTuple):
    """The servers, and where a test may write."""

    hub: HubServer
    front: TlsFront
    authority: Authority
    folder: Path

    def endpoint(self, scheme: str) -> str:
        return self.hub.endpoint if scheme == "http" else f"https://localhost:{self.front.port}"

    def settings(self, scheme: str, **env: str) -> Settings:
        endpoint = self.endpoint(scheme)
        own = urlsplit(endpoint).netloc
        store = {"HIVE_STORE": str(self.folder / "store"), "HIVE_HOME": str(self.folder / "home")}
        return Settings.from_env({**store, "HF_ENDPOINT": endpoint, "HIVE_ALLOW_HOSTS": own, **env})


Use = Callable[[World, Settings], None]


def use_api(world: World, settings: Settings) -> None:
    """The Hub's metadata."""
    plan = resolve(parse_ref("org/name"), settings=settings, network=network_for(settings, guarded=False))
    assert [file.path for file in plan.files] == ["README.md"]


def use_bytes(world: World, settings: Settings) -> None:
    """A file of the Hub, whose address was found before."""
    free = replace(network_for(settings, guarded=False), proxies=Network().proxies)
    near = world.settings("http")
    plan = resolve(parse_ref("org/name"), settings=near, network=network_for(near, guarded=False))
    source = plan.files[0].source
    location = source.locate()
    url = location.url.replace(world.hub.endpoint, settings.hf_endpoint)
    source = replace(source, locate=lambda: replace(location, url=url))
    assert free.trust == settings.trust
    network = network_for(settings, guarded=False)
    assert fetch(source, world.folder / "file", network=network, limits=few_tries(settings)).verified


def few_tries(settings: Settings) -> Limits:
    """The engine's numbers, but that a trouble is told sooner."""
    return replace(limits_of(settings), attempts_max=2, backoff_min_s=0.01, backoff_max_s=0.02)


def use_plain_url(world: World, settings: Settings) -> None:
    """A URL that somebody wrote."""
    network = network_for(settings, guarded=True)
    plan = resolve(parse_ref(f"{settings.hf_endpoint}/plain.bin"), settings=settings, network=network)
    assert fetch(plan.files[0].source, world.folder / "url", network=network, limits=few_tries(settings)).size == 300


def use_webhook(world: World, settings: Settings) -> None:
    """A message to a server outside."""
    network = network_for(settings, guarded=True)
    assert post(parse_url(f"{settings.hf_endpoint}/plain.bin"), b"{}", {}, network, 10.0).status < 500


CLIENTS = pytest.mark.parametrize("use", [use_api, use_bytes, use_plain_url, use_webhook])
FETCHERS = pytest.mark.parametrize("use", [use_api, use_bytes, use_plain_url])
SCHEMES = pytest.mark.parametrize("scheme", ["http", "https"])
