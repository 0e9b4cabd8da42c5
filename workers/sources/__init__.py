"""From a reference to a plan: which files, of which sizes and digests, from where."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

from hive.net.egress import Network
from hive.settings import Settings
from hive.store.restricted import ProbeFile
from hive.wire.refs import ModelRef
from workers.sources import bucket, huggingface, local_file, modelscope, registry, url
from workers.sources.bucket import open_to_caller, own_host
from workers.sources.elsewhere import base_url
from workers.sources.hub_client import HubClient
from workers.sources.plan import Plan, PlannedFile, RetryLater, nowhere
from workers.sources.url import named, probed

__all__ = [
    "Plan",
    "PlannedFile",
    "RetryLater",
    "access",
    "base_url",
    "named",
    "open_to_caller",
    "own_host",
    "probed",
    "resolve",
]


def resolve(
    ref: ModelRef,
    *,
    settings: Settings,
    network: Network,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    sha256: str | None = None,
    token: str | None = None,
    name: str | None = None,
    as_operator: bool = True,
) -> Plan:
    """What has to be on the disk for this reference. `sha256` and `name` are for a plain URL, the patterns and `token`
    for the Hub. Without `as_operator` the Hub is asked for what the store knows to be restricted, also where all of it
    is on the disk; and what comes from elsewhere than the Hub shares no content with that.

    Raises:
        HiveError: the reference means nothing that can be fetched; the code says why.
        RetryLater: the Hub limits requests; ask again after the time it gives.
    """
    if ref.is_local_file:
        return local_file.resolve(ref, sha256, name, settings)
    if ref.is_object:
        return bucket.resolve(ref, sha256, name, settings=settings, network=network)
    if ref.url is not None:
        return url.resolve(ref, sha256, name)
    if (registered := ref.registry) is not None:
        ask = modelscope.resolve if registered.kind == "modelscope" else registry.resolve
        plan = ask(ref, registered, include, exclude, settings=settings, network=network)
        return plan if as_operator else dataclasses.replace(plan, lets_in=nowhere)
    return huggingface.resolve(
        ref, include, exclude, settings=settings, token=token, network=network, as_operator=as_operator
    )


def access(place: ProbeFile, *, settings: Settings, network: Network, token: str | None) -> Literal["yes"]:
    """Yes, where the Hub lets this token have a file.

    Raises:
        HiveError: it does not; HubUnavailable where it does not say.
        RetryLater: the Hub limits requests.
    """
    HubClient(settings, token, network).check_readable(place)
    return "yes"
