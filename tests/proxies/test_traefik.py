"""Traefik cannot be had here, so its files are held against the options that its reference documents.

What is checked: every option exists under that name, what is referred to is there, and what must not be there is not.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from tests.proxies.programs import FILES

#: Options of Traefik 3.4 and newer that the files use, as its reference has them; `*` is a name of one's own.
STATIC = {
    "entryPoints.*.address",
    "entryPoints.*.http.redirections.entryPoint.to",
    "entryPoints.*.http.redirections.entryPoint.scheme",
    "entryPoints.*.transport.respondingTimeouts.readTimeout",
    "entryPoints.*.transport.respondingTimeouts.writeTimeout",
    "entryPoints.*.transport.respondingTimeouts.idleTimeout",
    "entryPoints.*.transport.lifeCycle.graceTimeOut",
    "providers.file.filename",
    "providers.file.watch",
    "certificatesResolvers.*.acme.email",
    "certificatesResolvers.*.acme.storage",
    "certificatesResolvers.*.acme.tlsChallenge",
}
DYNAMIC = {
    "http.routers.*.entryPoints",
    "http.routers.*.rule",
    "http.routers.*.service",
    "http.routers.*.middlewares",
    "http.routers.*.tls.certResolver",
    "http.middlewares.*.compress.includedContentTypes",
    "http.middlewares.*.retry.attempts",
    "http.middlewares.*.retry.initialInterval",
    "http.services.*.failover.service",
    "http.services.*.failover.fallback",
    "http.services.*.loadBalancer.strategy",
    "http.services.*.loadBalancer.passHostHeader",
    "http.services.*.loadBalancer.serversTransport",
    "http.services.*.loadBalancer.healthCheck.path",
    "http.services.*.loadBalancer.healthCheck.interval",
    "http.services.*.loadBalancer.healthCheck.timeout",
    "http.services.*.loadBalancer.servers",
    "http.serversTransports.*.forwardingTimeouts.dialTimeout",
    "http.serversTransports.*.forwardingTimeouts.responseHeaderTimeout",
    "http.serversTransports.*.forwardingTimeouts.idleConnTimeout",
}
#: Under which keys the names are one's own.
OWN_NAMES = {"entryPoints", "certificatesResolvers", "routers", "middlewares", "services", "serversTransports"}


def read(name: str) -> Any:
    return yaml.safe_load((FILES / name).read_text())


def options(tree: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    """The options that a file sets."""
    if not isinstance(tree, dict) or not tree:
        yield ".".join(path)
        return
    for key, value in tree.items():
        own = bool(path) and path[-1] in OWN_NAMES
        yield from options(value, (*path, "*" if own else key))


def test_every_option_is_one_of_the_reference() -> None:
    assert set(options(read("traefik.yml"))) <= STATIC
    assert set(options(read("traefik-hive.yml"))) <= DYNAMIC


def test_every_name_leads_somewhere() -> None:
    static, http = read("traefik.yml"), read("traefik-hive.yml")["http"]
    assert static["providers"]["file"]["filename"].endswith("/traefik-hive.yml")
    for router in http["routers"].values():
        assert set(router["entryPoints"]) <= set(static["entryPoints"])
        assert set(router["middlewares"]) == set(http["middlewares"])
        assert router["service"] in http["services"]
        assert router["tls"]["certResolver"] in static["certificatesResolvers"]
    failover = http["services"]["hive"]["failover"]
    ready, whoever = (http["services"][failover[each]]["loadBalancer"] for each in ("service", "fallback"))
    assert ready["servers"] == whoever["servers"]
    assert ready["healthCheck"]["path"] == "/readyz"
    assert "healthCheck" not in whoever, "it is for when nobody is ready"
    for balancer in (ready, whoever):
        assert balancer["serversTransport"] in http["serversTransports"]


def test_nothing_holds_answers_back_or_ends_them() -> None:
    http = read("traefik-hive.yml")["http"]
    assert not any("buffering" in each for each in http["middlewares"].values())
    assert "text/event-stream" not in http["middlewares"]["hive-compress"]["compress"]["includedContentTypes"]
    assert read("traefik.yml")["entryPoints"]["websecure"]["transport"]["respondingTimeouts"]["writeTimeout"] == "0s"
