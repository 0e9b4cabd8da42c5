"""What a subscription has been told, read up to a mark instead of for a time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from tests.support.waiting import DEADLINE_S


def pending(pubsub: Any) -> Iterator[dict[str, Any]]:
    """All that was published before this call: Redis answers the ping behind it, in order."""
    pubsub.ping()
    end_s = time.monotonic() + DEADLINE_S
    while (message := pubsub.get_message(timeout=1.0)) is None or message["type"] != "pong":
        assert time.monotonic() < end_s, "Redis does not answer a subscription"
        if message is not None:
            yield message
