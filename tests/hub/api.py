"""The JSON side of the Hub: what a repository is, what is in it, and who is asking."""

import base64
import binascii
import re
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from http import HTTPStatus
from urllib.parse import parse_qs, unquote, urlencode

import msgspec

from tests.hub.access import Access
from tests.hub.messages import Headers, Reply, Request, json_reply
from tests.hub.refusals import Refusal, bad_credentials, entry_not_found, revision_not_found
from tests.hub.repo import Commit, Entry, Folder, Repo

#: Entries of a tree in one answer, without and with `expand`.
PAGE_ENTRIES, PAGE_ENTRIES_EXPANDED = 1_000, 50

#: Most paths in one `paths-info`.
MAX_PATHS = 10_000

#: Seconds for which a Xet token is good.
XET_TOKEN_TTL_S = 3_600

_ROUTE = re.compile(
    r"/api/(?P<kind>models/|datasets/|spaces/)(?P<repo>[^/]+?|[^/]+/[^/]+?)"
    r"(?:/(?P<verb>revision|tree|paths-info|refs|commits|auth-check|xet-read-token)(?:/(?P<rest>.*))?)?"
)
#: A revision that a client has not percent-encoded takes three segments of the path.
_SPELT_OUT_REF = re.compile(r"(refs/(?:pr|heads|tags|convert)/[^/]+)(?:/(.*))?", re.DOTALL)

Json = dict[str, object]


class Api:
    """Answers below /api."""

    def __init__(self, repos: Mapping[str, Repo], access: Access, url: Callable[[], str]) -> None:
        """`url` gives the Hub's own address, once it is known."""
        self._repos = repos
        self._access = access
        self._url = url
        #: Where Xet tokens send their holders; a test that runs a Xet store sets it.
        self.xet_endpoint = "http://127.0.0.1:9"

    def answer(self, request: Request) -> Reply:
        """The reply. Raises Refusal."""
        if request.path == "/api/whoami-v2":
            return self._whoami(request)
        if request.path == "/api/agent-harnesses":
            # The client asks at its start for what tells programs from people.
            return json_reply({"standardEnvVars": [], "harnesses": {}})
        match = _ROUTE.fullmatch(request.raw_path)
        if match is None:
            raise Refusal(HTTPStatus.NOT_FOUND, "Sorry, we can't find the page you are looking for.")
        repo = self._access.check_visible(request, self._repos.get(name_in(match)))
        revision, path = split_revision(match["rest"] or "")
        match match["verb"]:
            case "tree":
                return self._tree(request, repo, revision, path)
            case "paths-info":
                return self._paths_info(request, repo, revision)
            case "auth-check":
                self._access.check_readable(request, repo)
                return json_reply({})
            case "commits":
                return json_reply(_commits(repo, commit_of(repo, revision)))
            case "refs":
                return json_reply(_refs(repo, with_pull_requests=request.flag("include_prs")))
            case "xet-read-token":
                return self._xet_token(request, repo, revision)
            case _:
                return json_reply(_info(request, repo, commit_of(repo, revision or "main")))

    def _whoami(self, request: Request) -> Reply:
        if self._access.token(request) is None:
            raise bad_credentials()
        auth = {"type": "access_token", "accessToken": {"displayName": "stand-in", "role": "read"}}
        return json_reply({"type": "user", "id": "0" * 24, "name": "stand-in", "orgs": [], "auth": auth})

    def _tree(self, request: Request, repo: Repo, revision: str, path: str) -> Reply:
        commit = commit_of(repo, revision)
        if not commit.tree.has_folder(path):
            raise entry_not_found(commit.sha, f'{path} does not exist on "{revision}"')
        expand, recursive = request.flag("expand"), request.flag("recursive")
        entries = list(commit.tree.walk(path, recursive=recursive))
        largest = PAGE_ENTRIES_EXPANDED if expand else PAGE_ENTRIES
        start, size = _cursor(request), min(max(1, _number(request.first("limit", str(largest)))), largest)
        page = [tree_item(repo, commit, entry, expand=expand) for entry in entries[start : start + size]]
        headers: Headers = [("X-Repo-Commit", commit.sha)]
        if start + size < len(entries):
            flags = {"recursive": str(recursive).lower(), "expand": str(expand).lower()}
            query = {**flags, "limit": size, "cursor": _as_cursor(start + size)}
            # The path as the client spelt it: an encoded revision such as refs%2Fpr%2F1 must stay one segment.
            headers.append(("Link", f'<{self._url()}{request.raw_path}?{urlencode(query)}>; rel="next"'))
        return json_reply(page, headers)

    def _paths_info(self, request: Request, repo: Repo, revision: str) -> Reply:
        commit = commit_of(repo, revision)
        paths, expand = _wanted_paths(request)
        found: list[Entry | Folder] = []
        for path in paths:
            if path in commit.files:
                found.append(commit.files[path])
            elif path and commit.tree.has_folder(path):
                found.append(commit.tree.folder(path))
        return json_reply([tree_item(repo, commit, entry, expand=expand) for entry in found])

    def _xet_token(self, request: Request, repo: Repo, revision: str) -> Reply:
        commit_of(repo, revision)
        self._access.check_readable(request, repo)
        if not repo.xet:
            raise Refusal(HTTPStatus.NOT_FOUND, "Xet is not enabled for this repository")
        expires = int(time.time()) + XET_TOKEN_TTL_S
        token = base64.urlsafe_b64encode(f"xet {repo.name} {expires}".encode()).decode()
        headers = [
            ("X-Xet-Cas-Url", self.xet_endpoint),
            ("X-Xet-Access-Token", token),
            ("X-Xet-Token-Expiration", str(expires)),
        ]
        return json_reply({"casUrl": self.xet_endpoint, "accessToken": token, "exp": expires}, headers)


def name_in(match: re.Match[str]) -> str:
    """The name of the repository in an address: with `datasets/` or `spaces/` before it where it is no model."""
    return (match["kind"] or "").removeprefix("models/") + unquote(match["repo"])


def api_place(repo: Repo) -> str:
    """What the API calls a repository."""
    return repo.name if repo.name.startswith(("datasets/", "spaces/")) else f"models/{repo.name}"


def commit_of(repo: Repo, revision: str) -> Commit:
    """The commit of a revision. Raises Refusal."""
    commit = repo.find(revision)
    if commit is None:
        raise revision_not_found(revision)
    return commit


def split_revision(rest: str) -> tuple[str, str]:
    """Revision and path, decoded, of what follows the verb in a URL."""
    spelt_out = _SPELT_OUT_REF.fullmatch(rest)
    revision, path = spelt_out.groups(default="") if spelt_out else rest.partition("/")[::2]
    return unquote(revision), unquote(path).strip("/")


def tree_item(repo: Repo, commit: Commit, entry: Entry | Folder, *, expand: bool) -> Json:
    """An entry of a tree or of paths-info."""
    if isinstance(entry, Folder):
        folder: Json = {"type": "directory", "oid": entry.oid, "size": 0, "path": entry.path}
        return folder | ({"lastCommit": _last_commit(commit.sha, commit.title, commit.at)} if expand else {})
    item: Json = {"type": "file", "oid": entry.oid, "size": entry.size, "path": entry.path}
    if entry.lfs:
        item["lfs"] = {"oid": entry.sha256, "size": entry.size, "pointerSize": len(entry.pointer)}
    xet_hash = repo.xet_hash(entry)
    if xet_hash is not None:
        item["xetHash"] = xet_hash
    if expand:
        item["lastCommit"] = _last_commit(commit.sha, entry.commit_title, entry.at)
        scan = {"status": "safe", "message": None}
        item["securityFileStatus"] = {"status": "safe", "avScan": scan, "pickleImportScan": scan}
    return item


def _info(request: Request, repo: Repo, commit: Commit) -> Json:
    blobs = request.flag("blobs")
    name = repo.name.removeprefix("datasets/").removeprefix("spaces/")
    owner = name.partition("/")[0] if "/" in name else None
    everything: Json = {
        "id": name,
        **({"modelId": name} if name == repo.name else {}),
        "author": owner,
        "sha": commit.sha,
        "lastModified": _date(commit.at),
        "createdAt": _date(min(c.at for c in repo.commits.values())),
        "private": repo.private,
        "gated": repo.gated,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [*([f"license:{repo.license}"] if repo.license else []), "region:us"],
        "spaces": [],
        "usedStorage": sum(entry.size for entry in commit.files.values()),
        "siblings": [_sibling(entry, blobs=blobs) for _, entry in sorted(commit.files.items())],
    }
    identity: Json = {"_id": "0" * 24, "id": name}
    wanted = request.query.get("expand") or request.query.get("expand[]")
    if not wanted:
        return identity | everything
    if blobs:
        raise Refusal(HTTPStatus.BAD_REQUEST, "`expand` cannot be used together with `blobs`")
    return identity | {name: everything[name] for name in wanted if name in everything}


def _sibling(entry: Entry, *, blobs: bool) -> Json:
    if not blobs:
        return {"rfilename": entry.path}
    item: Json = {"rfilename": entry.path, "size": entry.size, "blobId": entry.oid}
    if entry.lfs:
        item["lfs"] = {"sha256": entry.sha256, "size": entry.size, "pointerSize": len(entry.pointer)}
    return item


def _commits(repo: Repo, last: Commit) -> list[Json]:
    """What led to a commit, the newest first."""
    found = sorted((each for each in repo.commits.values() if each.at <= last.at), key=lambda each: each.at)
    return [
        {"id": each.sha, "title": each.title, "message": "", "date": _date(each.at), "authors": [{"user": "somebody"}]}
        for each in reversed(found)
    ]


def _refs(repo: Repo, *, with_pull_requests: bool) -> Json:
    kinds = {"branches": "refs/heads/", "tags": "refs/tags/", "converts": "refs/convert/"}
    if with_pull_requests:
        kinds["pullRequests"] = "refs/pr/"
    return {
        kind: [
            {"name": ref.removeprefix(prefix), "ref": ref, "targetCommit": sha}
            for ref, sha in repo.refs.items()
            if ref.startswith(prefix)
        ]
        for kind, prefix in kinds.items()
    }


def _wanted_paths(request: Request) -> tuple[list[str], bool]:
    if "json" in request.headers.get("content-type", ""):
        asked = msgspec.json.decode(request.body, type=dict[str, object])
        listed, expand = asked.get("paths"), asked.get("expand") is True
        paths = [str(path) for path in listed] if isinstance(listed, list) else [str(listed)]
    else:
        form = parse_qs(request.body.decode(), keep_blank_values=True)
        paths, expand = form.get("paths", []), form.get("expand", [""])[0].lower() == "true"
    if len(paths) > MAX_PATHS:
        raise Refusal(HTTPStatus.BAD_REQUEST, f"at most {MAX_PATHS} paths")
    return paths, expand


def _last_commit(sha: str, title: str, at: datetime) -> Json:
    return {"id": sha, "title": title, "date": _date(at)}


def _date(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%S.000Z")


def _cursor(request: Request) -> int:
    cursor = request.first("cursor")
    if not cursor:
        return 0
    try:
        return _number(base64.urlsafe_b64decode(cursor).decode().removeprefix("at:"))
    except (binascii.Error, UnicodeDecodeError):
        raise Refusal(HTTPStatus.BAD_REQUEST, "Invalid cursor") from None


def _as_cursor(position: int) -> str:
    return base64.urlsafe_b64encode(f"at:{position}".encode()).decode()


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise Refusal(HTTPStatus.BAD_REQUEST, "Not a number")
    return int(text)
