"""The stand-in as a whole: the Hub and its CDN on two ports of the loopback, with everything that tests may change."""

import secrets
from collections.abc import Mapping
from http import HTTPStatus
from types import TracebackType
from typing import Self
from urllib.parse import quote

from tests.hub.access import DEFAULT_TOKEN, Access
from tests.hub.api import Api
from tests.hub.content import AnyContent, Content, as_content
from tests.hub.hits import Hit, HitLog
from tests.hub.messages import PACE_STEP_S, OriginName, Reply, Request, redirect_reply
from tests.hub.origin import Origin
from tests.hub.refusals import Refusal
from tests.hub.repo import Gated, Repo
from tests.hub.resolve import Cdn, Files, method_not_allowed, no_such_page
from tests.hub.resources import LAST_MODIFIED, Resource, answer
from tests.hub.rules import FaultBook

#: What the Hub says of its rate limits with every answer, to callers who are far from them.
_FAR_FROM_LIMITS = [("RateLimit", '"api";r=499;t=300'), ("RateLimit-Policy", '"fixed window";"api";q=500;w=300')]


class HubServer:
    """A Hub with repositories, plain files, redirects, faults and a log of everything that arrives.

    Use it as a context manager, or call `start` and `stop`. All of it may be changed while it runs.
    """

    def __init__(
        self,
        *repos: Repo,
        token: str = DEFAULT_TOKEN,
        port: int = 0,
        cdn_port: int = 0,
        resolve_cache: bool = False,
        limit_rate_bytes_per_s: float | None = None,
        host: str = "127.0.0.1",
        name: str | None = None,
    ) -> None:
        """Bind both ports; `token` opens everything, the rate limit is each connection's own. In a container `host` is
        where to listen, and `name` what others call it. Raises OSError.
        """
        self.token = token
        self.limit_rate_bytes_per_s = limit_rate_bytes_per_s
        #: Seconds of traffic in one write: longer ones for many connections at once, which are cheaper so.
        self.pace_step_s = PACE_STEP_S
        self.repos: dict[str, Repo] = {repo.name: repo for repo in repos}
        self.log = HitLog()
        self.faults = FaultBook()
        self.access = Access(token)
        self._plain: dict[tuple[OriginName, str], Resource] = {}
        self._redirects: dict[tuple[OriginName, str], tuple[str, int]] = {}
        self._cdn_files = Cdn(self.faults)
        self._files = Files(self.repos, self.access, self.faults, self._cdn_files)
        self._files.resolve_cache = resolve_cache
        host_name = name or host
        self._hub = Origin("hub", self._answer_hub, self._files.subject, self.log, port, host, host_name)
        self._cdn = Origin("cdn", self._answer_cdn, self._cdn_files.subject, self.log, cdn_port, host, host_name)
        self.api = Api(self.repos, self.access, lambda: self.endpoint)
        #: Where redirects to the CDN lead; a test that puts a proxy in front of the CDN sets it.
        self.cdn_endpoint = self._cdn.url

    @property
    def endpoint(self) -> str:
        """The Hub's address: what HF_ENDPOINT should be."""
        return self._hub.url

    def start(self) -> Self:
        """Begin to answer."""
        self._hub.start()
        self._cdn.start()
        return self

    def stop(self) -> None:
        """Close both origins, cutting what is under way. Raises TimeoutError."""
        try:
            self._hub.stop()
        finally:
            self._cdn.stop()

    def __enter__(self) -> Self:
        """Start."""
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Stop."""
        self.stop()

    def add(self, repo: Repo) -> Repo:
        """Publish a repository, and return it."""
        self.repos[repo.name] = repo
        return repo

    def create(
        self,
        name: str,
        files: Mapping[str, AnyContent | None],
        *,
        gated: Gated = False,
        private: bool = False,
        xet: bool = False,
    ) -> Repo:
        """Publish a repository with one commit of these files, and return it."""
        repo = Repo(name, gated=gated, private=private, xet=xet)
        repo.commit(files)
        return self.add(repo)

    def resolve_url(self, repo: Repo | str, path: str, revision: str = "main") -> str:
        """The address of a repository's file."""
        name = repo if isinstance(repo, str) else repo.name
        return f"{self.endpoint}/{name}/resolve/{quote(revision, safe='')}/{quote(path)}"

    def plain(
        self,
        path: str,
        content: AnyContent,
        *,
        origin: OriginName = "hub",
        etag: bool | str = True,
        last_modified: bool = True,
        ranges: bool = True,
        length: bool = True,
        head: bool = True,
        disposition: str | None = None,
    ) -> str:
        """Serve a content at a path of its own, and return the URL. A later call replaces it.

        `etag` may be the header's value, quotes and W/ included; without `ranges` Range is ignored; without `length`
        the body comes in chunks; without `head` a HEAD gets a 403; `disposition` is the header's value.
        """
        path = "/" + path.lstrip("/")
        source = as_content(content)
        tag = f'"{_tag(source)}"' if etag is True else etag or None
        modified = LAST_MODIFIED if last_modified else None
        resource = Resource(source, tag, modified, ranges, length, head, disposition)
        self._plain[origin, path] = resource
        return self._origin_url(origin) + quote(path)

    def redirect(self, path: str, to: str, status: int = HTTPStatus.FOUND, *, origin: OriginName = "hub") -> str:
        """Redirect a path to a URL (or a relative one), and return the path's URL."""
        path = "/" + path.lstrip("/")
        self._redirects[origin, path] = (to, status)
        return self._origin_url(origin) + quote(path)

    def hits(self, pattern: str = "*", *, origin: OriginName | None = None, method: str | None = None) -> list[Hit]:
        """What arrived; see HitLog.hits."""
        return self.log.hits(pattern, origin=origin, method=method)

    def bytes_sent(self, pattern: str = "*", *, origin: OriginName | None = None) -> int:
        """Bytes of bodies sent; see HitLog.bytes_sent."""
        return self.log.bytes_sent(pattern, origin=origin)

    def reset_log(self) -> None:
        """Forget what arrived."""
        self.log.reset()

    def close_connections(self) -> None:
        """Cut every open connection of both origins."""
        self._hub.close_connections()
        self._cdn.close_connections()

    @property
    def connections(self) -> int:
        """How many connections are open at both origins."""
        return self._hub.connections + self._cdn.connections

    def _origin_url(self, origin: OriginName) -> str:
        return self._hub.url if origin == "hub" else self._cdn.url

    def _answer_hub(self, request: Request) -> Reply:
        reply = self._answer(request)
        request_id = f"Root=1-{secrets.token_hex(4)}-{secrets.token_hex(12)}"
        reply.headers += [("X-Request-Id", request_id), ("X-Powered-By", "huggingface-moon")]
        if not any(name == "RateLimit" for name, _ in reply.headers):
            reply.headers += _FAR_FROM_LIMITS
        return reply

    def _answer_cdn(self, request: Request) -> Reply:
        return self._answer(request)

    def _answer(self, request: Request) -> Reply:
        reply = self.faults.before(request)
        if reply is None:
            try:
                reply = self._route(request)
            except Refusal as refusal:
                reply = refusal.reply(as_json=request.path.startswith("/api/"))
        if self.limit_rate_bytes_per_s is not None:
            reply.body.rate_bytes_per_s = self.limit_rate_bytes_per_s
            reply.body.pace_step_s = self.pace_step_s
        return self.faults.shape(request, reply)

    def _route(self, request: Request) -> Reply:
        place = (request.origin, request.path)
        if place in self._redirects:
            to, status = self._redirects[place]
            return redirect_reply(status, to)
        if request.method == "POST" and not request.path.startswith("/api/"):
            return method_not_allowed()
        if place in self._plain:
            return answer(request, self.faults.source(request, self._plain[place]))
        if request.origin == "cdn":
            return self._cdn_files.answer(request)
        reply = self._files.answer(request, self.endpoint, self.cdn_endpoint)
        if reply is not None:
            return reply
        if request.path.startswith("/api/"):
            return self.api.answer(request)
        raise no_such_page()


def _tag(content: Content) -> str:
    return content.sha256()[:32]
