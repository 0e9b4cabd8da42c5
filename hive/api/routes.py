"""What a route is: an address, its methods, who answers, and the scope that a key needs for it.

Problem: a route that nobody thought to guard is open to all. The easy way, a check at the head of each handler, is
forgotten in the next one. So the scope stands in the route table, is checked before the handler runs, and cannot be
left out: `None` says aloud that a route is open.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from hive.api.services import Services
from hive.auth import scopes
from hive.auth.principal import principal_of
from hive.errors import InsufficientScope

#: The methods of what streams an answer to a body.
POST: Final = frozenset({"POST"})

#: How a stream is answered: in front of Starlette, from the bare ASGI scope.
StreamHandler = Callable[[Services, Scope, Receive, Send], Awaitable[None]]


class ApiRoute(Route):
    """One method of one address."""

    def __init__(
        self,
        method: str,
        path: str,
        endpoint: Callable[[Request], Awaitable[Response]],
        needs: scopes.Scope | None,
    ) -> None:
        """`needs`: the scope of a key that may ask; None for everybody."""
        super().__init__(path, endpoint, methods=[method])
        self.needs = needs

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, where the principal may ask."""
        check(scope, self.needs)
        await super().handle(scope, receive, send)


@dataclass(frozen=True)
class StreamRoute:
    """An event stream. It answers every method itself."""

    path: str
    answer: StreamHandler
    needs: scopes.Scope | None
    methods: frozenset[str] = frozenset({"GET", "HEAD"})


def check(scope: Mapping[str, Any], needs: scopes.Scope | None) -> None:
    """Let through who holds this scope.

    Raises:
        InsufficientScope: the principal does not.
    """
    if needs is not None and not (principal := principal_of(scope)).may(needs):
        text = f"This API key may not do this: it does not have the scope {needs!r}. Who runs the server makes keys"
        raise InsufficientScope(f"{text} with `hive key new --scopes`.", needs=needs, scopes=sorted(principal.scopes))
