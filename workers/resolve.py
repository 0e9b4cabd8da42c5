"""From a reference to a plan, patiently: the Hub may be away for a moment, or ask to wait."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

import msgspec

from hive.downloads.record import Record
from hive.errors import HubRefused, HubUnavailable, ModelAccessDenied, ModelNotFound
from hive.net.backoff import Backoff
from hive.net.egress import Network
from hive.secrets import Credentials
from hive.settings import Settings
from hive.wire.jobs import Request
from hive.wire.refs import ModelRef
from workers.coordination import ProgressListener
from workers.sources import Plan, RetryLater, base_url, resolve
from workers.transfer import Control, Cooldown

#: How often an unreachable Hub is asked, and the bounds of the waits between, in seconds (exponential, full jitter).
HUB_ATTEMPTS = 6
HUB_WAIT_FIRST_S, HUB_WAIT_LAST_S = 1.0, 20.0
#: The same where the disk has an answer too.
HUB_ATTEMPTS_WITH_COPY = 2
#: The longest wait that a rate limit may ask for, in seconds: the Hub counts per 5 minutes.
RATE_LIMIT_WAIT_MAX_S = 900.0
#: What the Hub says to a token, or to none, that does not open a model: of a private one that there is none.
REFUSED: Final = (ModelAccessDenied, ModelNotFound)


def resolve_patiently(
    ref: ModelRef,
    request: Request,
    *,
    settings: Settings,
    network: Network,
    token: str | None,
    control: Control,
    reporter: ProgressListener,
    cooldown: Cooldown,
    attempts: int = HUB_ATTEMPTS,
) -> Plan:
    """The plan. A Hub that asked any worker for a rest gets it from this one too.

    `attempts` is how often a Hub that does not answer is asked.

    Raises:
        HiveError: there is none, or the Hub stays away; what `control` was cancelled with.
    """
    backoff = Backoff(HUB_WAIT_FIRST_S, HUB_WAIT_LAST_S)
    host = source_host(settings, ref)
    asked = "The Hub" if ref.registry is None else f"The registry {host}"
    while True:
        try:
            if host and (rest_s := cooldown.remaining_s(host)) > 0:
                raise RetryLater(rest_s)
            return resolve(
                ref,
                settings=settings,
                network=network,
                include=request.include,
                exclude=request.exclude,
                sha256=request.sha256,
                name=request.name,
                token=token,
                as_operator=request.as_operator,
            )
        except RetryLater as limit:
            wait_s = min(limit.seconds, RATE_LIMIT_WAIT_MAX_S)
            cooldown.set(host, wait_s)
            message = f"{asked} asks to wait {wait_s:.0f} s (rate limit)."
        except HubRefused:
            raise
        except HubUnavailable as error:
            wait_s = backoff.next_s()
            if backoff.failures >= attempts or settings.hf_hub_offline:
                raise
            message = error.message
        reporter.status("retrying", message)
        control.sleep(wait_s)
        reporter.status("resolving")


def without_lent_token(refused: Credentials, record: Record | None) -> Credentials | None:
    """What is tried where the Hub refuses the token of a download: none of its own, which is the workers' token where
    they have one, if somebody shares it who has asked without. Else None: who sends a token hears that it is wrong.
    """
    if record is None or not record.lent or not refused.hf_token:
        return None
    return msgspec.structs.replace(refused, hf_token=None)


def source_host(settings: Settings, ref: ModelRef) -> str:
    """The host that rests when it limits requests for this reference; "" for that of a URL."""
    if ref.url is not None:
        return ""
    registered = ref.registry
    return hub_host(settings) if registered is None else urlsplit(base_url(settings, registered)).hostname or ""


def hub_host(settings: Settings) -> str:
    """The host that rests when the Hub limits requests."""
    return urlsplit(settings.hf_endpoint).hostname or ""
