"""The Hub, asked in a client's name: one guarded request with its token, whose answer is small.

Problem: a client of the mirror waits ten seconds, and the Hub may be away, slow or hostile. So a call has a deadline
for all of it and a bound on its bytes; a Hub that did not answer, and then once more not, is not asked again for some
seconds, since each who asks would wait as long (one answer that came late would else be everybody's failure); and only
so many are under way. Redirects are not followed here. The token goes to the endpoint
alone, by the same way out as all of hive's requests (hive/net).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final, NamedTuple

from hive import errors
from hive.downloads.threads import Threads
from hive.settings import Settings

#: Seconds for which a Hub that did not answer is not asked again.
AWAY_S: Final = 5.0
#: Requests in a row without an answer, after which it is.
AWAY_AFTER: Final = 2
#: Requests to the Hub at a time, and those that wait for one of them.
CALLS: Final = 8
MAX_WAITING: Final = 64


class HubAnswer(NamedTuple):
    """What the Hub said. Names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class HubUpstream:
    """The endpoint of the settings. `ask` belongs to the event loop."""

    def __init__(self, settings: Settings) -> None:
        self.endpoint = settings.hf_endpoint.rstrip("/")
        self._settings = settings
        self._calls = Threads("hub", CALLS, MAX_WAITING)
        self._away_until_s = 0.0
        self._unanswered = 0

    def close(self) -> None:
        """Let go of the threads."""
        self._calls.close()

    async def ask(
        self, method: str, target: str, token: str | None, body: bytes = b"", content_type: str = ""
    ) -> HubAnswer:
        """The answer to a request for `target`, a path with its query below the endpoint.

        Raises:
            HubUnavailable: there was none, or an error of its own.
            ServerBusy: too many ask at once.
        """
        if self._settings.hf_hub_offline:
            raise errors.HubUnavailable("HF_HUB_OFFLINE is set: the Hub is not asked.")
        if time.monotonic() < self._away_until_s:
            raise errors.HubUnavailable
        try:
            answer = await self._calls.run(self._ask, method, target, token, body, content_type)
        except errors.HubUnavailable:
            self._unanswered += 1
            if self._unanswered >= AWAY_AFTER:
                self._away_until_s = time.monotonic() + AWAY_S
            raise
        self._unanswered = 0
        if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise errors.HubUnavailable
        return answer

    def _ask(self, method: str, target: str, token: str | None, body: bytes, content_type: str) -> HubAnswer:
        # Here and not above: it takes as long to load as half of the server, and few servers are asked as a mirror.
        from hive.doors.hub_request import ask

        headers = {"Accept-Encoding": "identity", "User-Agent": self._settings.user_agent}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        if content_type:
            headers["Content-Type"] = content_type
        return HubAnswer(*ask(self._settings, method, f"{self.endpoint}{target}", headers, body))
