"""`/<repo>/resolve/<revision>/<path>`: the address of a file, and for a large one the way to the CDN."""

import hashlib
import re
from collections.abc import Mapping
from http import HTTPStatus
from urllib.parse import quote, urlencode

from tests.hub.access import Access
from tests.hub.api import api_place, commit_of, name_in, split_revision
from tests.hub.links import Signer, Verdict
from tests.hub.messages import Headers, Reply, Request, redirect_reply, text_reply
from tests.hub.refusals import Refusal, entry_not_found, storage_refusal
from tests.hub.repo import Commit, Entry, Repo
from tests.hub.resources import Resource, answer, disposition
from tests.hub.rules import FaultBook

#: Seconds for which a link to the CDN is good.
LINK_TTL_S = 3_600

_RESOLVE = re.compile(r"/(?P<kind>datasets/|spaces/)?(?P<repo>[^/]+(?:/[^/]+)?)/resolve/(?P<rest>.+)", re.DOTALL)
_CACHED = re.compile(
    r"/api/resolve-cache/(?P<kind>models/|datasets/|spaces/)(?P<repo>[^/]+(?:/[^/]+)?)/(?P<rest>[0-9a-f]{40}/.+)",
    re.DOTALL,
)


class Cdn:
    """The other origin: large files, for those who hold a signed link."""

    def __init__(self, faults: FaultBook) -> None:
        self._faults = faults
        self._signer = Signer()
        self._resources: dict[str, tuple[Resource, str]] = {}

    def link(self, repo: Repo, entry: Entry, ttl_s: float) -> str:
        """Path and query of a link to a file that is good for `ttl_s` seconds."""
        place = hashlib.md5(repo.name.encode(), usedforsecurity=False).hexdigest()[:24]
        path = f"/xet-bridge-us/{place}/{entry.sha256}"
        # Not the sha256, as with the real CDN: whoever takes this for the file's digest must be found out.
        etag = repo.xet_hash(entry) or f"{hashlib.md5(entry.sha256.encode(), usedforsecurity=False).hexdigest()}-1"
        self._resources[path] = (Resource(entry.content, f'"{etag}"'), f"{repo.name}/{entry.path}")
        return self._signer.sign(path, disposition(entry.path), ttl_s)

    def subject(self, request: Request) -> str:
        """The repository's file that a link leads to."""
        return self._resources.get(request.raw_path, (None, ""))[1]

    def answer(self, request: Request) -> Reply:
        """The file, or what an object store says to those whose link is not good."""
        verdict = self._signer.check(request)
        if verdict is not Verdict.GOOD:
            code = "SignatureDoesNotMatch" if verdict is Verdict.FORGED else "AccessDenied"
            return storage_refusal(code, verdict.value)
        resource, _ = self._resources[request.raw_path]
        return answer(request, self._faults.source(request, resource))


class Files:
    """Answers to `/resolve/`: small files at once, large ones by a redirect."""

    def __init__(self, repos: Mapping[str, Repo], access: Access, faults: FaultBook, cdn: Cdn) -> None:
        self._repos = repos
        self._access = access
        self._faults = faults
        self._cdn = cdn
        #: Whether small files are answered by a relative redirect to a cache, as the real Hub does for public ones.
        self.resolve_cache = False

    def subject(self, request: Request) -> str:
        """The repository's file that a URL means."""
        match = _RESOLVE.fullmatch(request.raw_path) or _CACHED.fullmatch(request.raw_path)
        return f"{name_in(match)}/{split_revision(match['rest'])[1]}" if match else ""

    def answer(self, request: Request, hub_url: str, cdn_url: str) -> Reply | None:
        """The reply; None when the URL is not one of a file. Raises Refusal."""
        cached = _CACHED.fullmatch(request.raw_path)
        match = cached or _RESOLVE.fullmatch(request.raw_path)
        if match is None:
            return None
        repo = self._access.check_visible(request, self._repos.get(name_in(match)))
        revision, path = split_revision(match["rest"])
        commit = commit_of(repo, revision)
        self._access.check_readable(request, repo)
        entry = commit.files.get(path)
        if entry is None:
            raise entry_not_found(commit.sha)
        if entry.lfs:
            return self._redirect_to_cdn(request, repo, commit, entry, hub_url, cdn_url)
        if self.resolve_cache and not cached and not repo.private and not repo.gated:
            return _redirect_to_cache(request, repo, commit, entry)
        return answer(request, self._faults.source(request, _git_resource(commit, entry)))

    def _redirect_to_cdn(
        self, request: Request, repo: Repo, commit: Commit, entry: Entry, hub_url: str, cdn_url: str
    ) -> Reply:
        location = cdn_url + self._cdn.link(repo, entry, self._faults.link_ttl_s(request, LINK_TTL_S))
        headers: Headers = [
            ("X-Repo-Commit", commit.sha),
            ("X-Linked-Size", str(entry.size)),
            ("X-Linked-Etag", f'"{entry.sha256}"'),
            # Of what git holds, the pointer: whoever takes this for the file's identity must be found out.
            ("ETag", f'"{entry.oid}"'),
            ("Accept-Ranges", "bytes"),
        ]
        xet_hash = repo.xet_hash(entry)
        if xet_hash is not None:
            auth = f"{hub_url}/api/{api_place(repo)}/xet-read-token/{commit.sha}"
            headers += [("X-Xet-Hash", xet_hash), ("Link", f'<{auth}>; rel="xet-auth"')]
        return redirect_reply(HTTPStatus.FOUND, location, headers)


def no_such_page() -> Refusal:
    """The Hub has nothing at that URL."""
    return Refusal(HTTPStatus.NOT_FOUND, "Sorry, we can't find the page you are looking for.")


def method_not_allowed() -> Reply:
    """Files are read, not written."""
    return text_reply(HTTPStatus.METHOD_NOT_ALLOWED, "", [("Allow", "GET, HEAD")])


def _git_resource(commit: Commit, entry: Entry) -> Resource:
    return Resource(
        entry.content,
        f'"{entry.oid}"',
        disposition=disposition(entry.path),
        content_type="text/plain; charset=utf-8",
        headers=(("X-Repo-Commit", commit.sha),),
    )


def _redirect_to_cache(request: Request, repo: Repo, commit: Commit, entry: Entry) -> Reply:
    query = urlencode({request.path: "", "etag": f'"{entry.oid}"'})
    location = f"/api/resolve-cache/{api_place(repo)}/{commit.sha}/{quote(entry.path)}?{query}"
    headers: Headers = [
        ("X-Repo-Commit", commit.sha),
        ("X-Linked-Size", str(entry.size)),
        ("X-Linked-Etag", f'"{entry.oid}"'),
    ]
    return redirect_reply(HTTPStatus.TEMPORARY_REDIRECT, location, headers)
