"""Which faults strike which requests, and how often."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from http import HTTPStatus

from tests.hub.faults import Fault
from tests.hub.messages import OriginName, Reply, Request
from tests.hub.resources import Resource

#: The statuses whose bodies are files (or listings): others are never cut or altered.
_WITH_CONTENT = (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT)


@dataclass(eq=False)
class Rule:
    """A fault, the requests it is meant for, and how often it has struck."""

    fault: Fault
    pattern: str
    origin: OriginName | None
    method: str | None
    count: int | None
    skip: int
    when: Callable[[Request], bool] | None
    #: How often it has struck.
    struck: int = 0

    def matches(self, request: Request) -> bool:
        """Whether the fault is meant for that request."""
        if self.origin not in (None, request.origin) or self.method not in (None, request.method):
            return False
        named = fnmatchcase(request.path, self.pattern) or fnmatchcase(request.subject, self.pattern)
        return named and (self.when is None or self.when(request))

    def strike(self) -> bool:
        """Count one occasion; false when it is used up, and for the occasions that the test lets pass first."""
        if self.count is not None and self.struck >= self.count:
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        self.struck += 1
        return True


class FaultBook:
    """The rules that are on. Safe to change while requests are served."""

    def __init__(self) -> None:
        self._rules: list[Rule] = []
        self._lock = threading.Lock()

    def add(
        self,
        fault: Fault,
        pattern: str = "*",
        *,
        origin: OriginName | None = None,
        method: str | None = None,
        count: int | None = None,
        skip: int = 0,
        when: Callable[[Request], bool] | None = None,
    ) -> Rule:
        """Switch a fault on for requests whose path, or whose "org/name/file", matches the shell pattern.

        It strikes `count` times (None: always) after `skip` occasions that it lets pass.
        """
        rule = Rule(fault, pattern, origin, method, count, skip, when)
        with self._lock:
            self._rules.append(rule)
        return rule

    def remove(self, rule: Rule) -> None:
        """Switch one off. Raises ValueError when it is off already."""
        with self._lock:
            self._rules.remove(rule)

    def clear(self) -> None:
        """Switch all off."""
        with self._lock:
            self._rules.clear()

    def before(self, request: Request) -> Reply | None:
        """The answer that a fault gives before the request is looked at."""
        for rule in self._meant_for(request, "before"):
            reply = rule.fault.before(request) if self._strike(rule) else None
            if reply is not None:
                return reply
        return None

    def link_ttl_s(self, request: Request, ttl_s: float) -> float:
        """For how long a link is good that this request is about to get."""
        for rule in self._meant_for(request, "link_ttl_s"):
            if self._strike(rule):
                return rule.fault.link_ttl_s(ttl_s)
        return ttl_s

    def source(self, request: Request, resource: Resource) -> Resource:
        """The file that is served to this request. Of several faults of one kind, one strikes."""
        kinds: set[type[Fault]] = set()
        for rule in self._meant_for(request, "source"):
            other = None if type(rule.fault) in kinds else rule.fault.source(request, resource)
            if other is not None and self._strike(rule):
                resource = other
                kinds.add(type(rule.fault))
        return resource

    def shape(self, request: Request, reply: Reply) -> Reply:
        """The reply, altered by the faults that find something to alter."""
        if request.method == "HEAD" or reply.status not in _WITH_CONTENT:
            return reply
        for rule in self._meant_for(request, "body"):
            altered = replace(reply.body)
            if rule.fault.body(altered, reply.status) and self._strike(rule):
                reply.body = altered
        return reply

    def _meant_for(self, request: Request, moment: str) -> list[Rule]:
        with self._lock:
            return [rule for rule in self._rules if _overrides(rule.fault, moment) and rule.matches(request)]

    def _strike(self, rule: Rule) -> bool:
        with self._lock:
            return rule.strike()


def _overrides(fault: Fault, moment: str) -> bool:
    return getattr(type(fault), moment) is not getattr(Fault, moment)
