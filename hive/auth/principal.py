"""The principal of a request: who asks, and what they may. The gate finds out, everybody else reads it from here."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from hive.auth.scopes import SCOPES, Scope

#: Where in the ASGI scope the gate puts it.
PRINCIPAL: Final = "hive.principal"


@dataclass(frozen=True, slots=True)
class Principal:
    """Whoever has sent a request: a key, what a key has made (a ticket, a session), or anybody where there are none."""

    #: The public id of the key; "" for anybody.
    key_id: str
    #: Whose downloads it makes and sees; "" for anybody's.
    owner: str
    #: With those that others hold: `admin` holds all.
    scopes: frozenset[Scope]
    #: When it ends, in Unix seconds; None: when its key is revoked.
    expires_s: float | None = None
    #: The downloads that a ticket is for; None: all that its key sees.
    downloads: frozenset[str] | None = None
    #: Whether it sees everybody's downloads although it may not administer: a ticket of an admin's.
    sees_all: bool = False
    #: The id of a session in a cookie, or of the one that asked for this ticket; "" where it is none.
    session_id: str = ""

    def may(self, scope: Scope) -> bool:
        """Whether it holds this scope."""
        return scope in self.scopes

    def sees(self, owners: Collection[str]) -> bool:
        """Whether it may know of something that belongs to `owners`. Who may administer sees everything; what belongs
        to nobody (it was made before there were keys) is seen by them alone.
        """
        return self.sees_everything or self.owner in owners

    @property
    def sees_everything(self) -> bool:
        """Whether it sees what belongs to others and to nobody, too."""
        return self.sees_all or "admin" in self.scopes


#: Anybody, where no keys exist: everything is allowed.
ANONYMOUS: Final = Principal("", "", frozenset(SCOPES))
#: Anybody, where keys exist: what needs no key.
NOBODY: Final = Principal("", "", frozenset())


def principal_of(connection: Mapping[str, Any]) -> Principal:
    """The principal of a request, from its ASGI scope or from Starlette's request, which is a mapping of its scope.

    Raises:
        KeyError: it did not come through the gate.
    """
    found: Principal = connection[PRINCIPAL]
    return found
