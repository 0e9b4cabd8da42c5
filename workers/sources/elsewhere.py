"""Asking what is not the Hub, the way the Hub is asked (workers.sources.hub_transport): time-outs, bounds, guards.

What is said of the Hub there is said of the other in the errors.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import httpx2

from hive.errors import HubRefused, HubUnavailable
from hive.net.egress import Network
from hive.settings import Settings
from hive.wire.registries import RegistryName
from workers.sources import hub_transport
from workers.sources.hub_transport import CallBounds


@contextlib.contextmanager
def asking(base: str, bounds: CallBounds, network: Network, called: str) -> Iterator[httpx2.Client]:
    """A client that asks the server at `base`, which people know as `called`.

    Raises:
        HiveError: as hub_transport does.
        RetryLater: it limits requests.
    """
    try:
        with hub_transport.asking(base, bounds), hub_transport.client(network) as client:
            yield client
    except HubUnavailable as error:
        text = error.message.replace("The Hub", called).replace("the Hub", called).replace("HF_ENDPOINT", "its address")
        raise type(error)(text, **error.details) from None
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise HubRefused(f"{called} cannot be asked ({type(error).__name__}).") from None


def base_url(settings: Settings, name: RegistryName) -> str:
    """The address of a registry: from the settings where they name it; https for any other, but for one of this
    machine.
    """
    if name.kind == "modelscope":
        return settings.modelscope_endpoint.rstrip("/")
    if name.kind == "ollama":
        return settings.ollama_registry.rstrip("/")
    host = name.host.partition(":")[0]
    if host == "docker.io":
        return "https://registry-1.docker.io"
    return f"{'http' if is_of_this_machine(host) else 'https'}://{name.host}"


def is_of_this_machine(host: str) -> bool:
    """Whether a host can be no other machine: nobody is on the way to it."""
    return host == "localhost" or (host.startswith("127.") and host.replace(".", "").isdecimal())
