"""The Hub's own addresses, for clients whose HF_ENDPOINT is this server."""

from __future__ import annotations

import asyncio
import contextlib
import glob
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import quote, urlsplit

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from hive import errors, logs
from hive.api.authentication import bearer
from hive.api.disconnect import while_connected
from hive.api.file_response import FileResponse, Headers
from hive.api.hub_listings import entry, folder, parents, paths_of, without_xet
from hive.api.json import MAX_BODY_BYTES, READ_ONLY, JsonResponse
from hive.api.services import Services, services_of
from hive.auth.keys import LIKE_KEY
from hive.auth.principal import principal_of
from hive.doors.growing import GrowingFile
from hive.doors.hub_mirror import HubFile, HubMirror, HubRefusal, refusal_of
from hive.doors.hub_paths import NOT_MIRRORED, HubPath, read_info_path, read_resolve_path, why_not
from hive.doors.ranges import Span, read_span
from hive.doors.small_files import SMALL_BYTES, BatchKey
from hive.downloads.provisioner import Provisioned
from hive.store.blobs import close_blob, find_repo_blob, open_blob
from hive.store.layout import is_commit, repo_folder
from hive.streams.writer import ASK_TO_WAIT, AskToWait
from hive.wire.api import HUB_TOKEN_HEADER
from hive.wire.refs import DEFAULT_REVISION, REPO_KINDS, ModelRef, RefError, api_place, parse_ref
from hive.wire.selection import RepoFile
from hive.wire.spec import DownloadSpec

#: Seconds to wait for the first bytes before the head is sent: clients wait ten for it, and ten more for what follows.
FIRST_BYTES_S: Final = 7.0
#: Seconds between two looks whether a download has ended.
END_LOOK_S: Final = 0.1
#: Clients that read `100 Continue` as what it is, as often as it comes, and give up after seconds without a byte; marks
#: that something stands between, which may not; seconds between two, and for which such a client is kept waiting.
PATIENT: Final = ("hf_hub/", "llama-cpp", "llama.cpp")
BETWEEN: Final = frozenset({b"via", b"forwarded", b"x-forwarded-for", b"x-real-ip"})
ASK_TO_WAIT_S: Final = 2.0
MAX_WAIT_S: Final = 3_600.0
#: Bytes from which huggingface_hub fetches no file by plain HTTP.
HUB_CLIENT_MAX_BYTES: Final = 50_000_000_000
#: What is told of a listing while the Hub is away and the disk has none.
NOT_ON_DISK: Final = HubRefusal(
    503, "", "The Hub cannot be asked, and this repository's listing is not on the disk.", retry_after="5"
)
#: What can stand in a header as a token.
_TOKEN: Final = re.compile(r"[!-~]{1,4096}")
_NEXT: Final = re.compile(r'<([^<>]{1,4096})>\s*;\s*rel="?next\b')
#: Entries of a page that is made from the disk.
PAGE_ENTRIES: Final = 1_000
#: Longest query that is passed on.
MAX_QUERY_CHARS: Final = 4_096


async def info(request: Request) -> Response:
    """`/api/models/...`, `/api/datasets/...`, `/api/spaces/...`: what the Hub says of a repository, a revision, a
    listing; from the disk while it is away.
    """
    asked = read_info_path(_raw_path(request))
    services, token = services_of(request), token_of(request)
    if asked is None or (request.method == "POST") != (asked.verb == "paths-info"):
        return nothing_here(request)
    body = await _read_form(request) if request.method == "POST" else b""
    query = request.scope["query_string"].decode("latin-1")[:MAX_QUERY_CHARS]
    target = f"/api/{api_place(asked.repo)}{_rest(asked)}{'?' + query if query else ''}"
    content_type = request.headers.get("content-type", "")[:128] if body else ""
    try:
        asking = services.mirror.upstream.ask("POST" if body else "GET", target, token, body, content_type)
        answer = await while_connected(request, asking)
    except errors.HubUnavailable:
        return await _info_on_disk(request, services.mirror, asked, token, body)
    if 300 <= answer.status < 400 and answer.headers.get("location", "").startswith("/api/"):
        return Response(status_code=307, headers={"location": answer.headers["location"][:4096]})
    if answer.status != 200:
        return refused(refusal_of(answer))
    if asked.verb in ("", "revision"):
        await _note_revision(services.mirror, asked, answer.body)
    headers = {"x-repo-commit": answer.headers["x-repo-commit"]} if "x-repo-commit" in answer.headers else {}
    if (found := _NEXT.search(answer.headers.get("link", ""))) is not None:
        following = urlsplit(found[1])
        headers["link"] = f'<{str(request.base_url).rstrip("/")}{following.path}?{following.query}>; rel="next"'
    return Response(without_xet(answer.body, asked), media_type="application/json", headers=headers)


async def paths_info(request: Request) -> Response:
    """`POST /api/models/.../paths-info/...`: what is at some paths of a revision."""
    asked = read_info_path(_raw_path(request))
    if asked is None or asked.verb != "paths-info":
        raise errors.MethodNotAllowed(READ_ONLY, allow="GET, HEAD")
    return await info(request)


async def file_of_one_name(request: Request) -> Response:
    """`/<name>/resolve/...`: the same as `file`, of a model whose name has one part."""
    return await file(request)


async def file_of_kind(request: Request) -> Response:
    """`/datasets/<org>/<name>/resolve/...`, `/spaces/...`: the same as `file`, of what is no model."""
    return await file(request)


async def _note_revision(mirror: HubMirror, asked: HubPath, body: bytes) -> None:
    """Keep what the Hub says that a revision stands for."""
    with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        commit = msgspec.json.decode(body, type=_Commit).sha.lower()
        mirror.note_revision(asked.repo, asked.revision or DEFAULT_REVISION, commit)
        if is_commit(commit):
            await mirror.write_refs(asked.repo, commit)


class _Commit(msgspec.Struct):
    sha: str


async def whoami(request: Request) -> Response:
    """`/api/whoami-v2`: who the Hub says that the token is; of a key of hive, whose it is."""
    token, principal = token_of(request), principal_of(request)
    if token is None and principal.key_id:
        name = principal.owner or principal.key_id
        auth = {"type": "access_token", "accessToken": {"displayName": f"hive-{principal.key_id}", "role": "read"}}
        return JsonResponse({"type": "user", "id": principal.key_id, "name": name, "orgs": [], "auth": auth})
    answer = await services_of(request).mirror.upstream.ask("GET", "/api/whoami-v2", token)
    if answer.status != 200:
        return refused(refusal_of(answer)._replace(status=401))
    return Response(answer.body, media_type="application/json")


async def elsewhere(request: Request) -> Response:
    """What else the Hub has below `/api`, as searches: nothing here."""
    return nothing_here(request)


async def file(request: Request) -> Response:
    """`/<org>/<name>/resolve/<revision>/<path>`, GET and HEAD: a file, fetched if it is not here."""
    asked = read_resolve_path(_raw_path(request))
    if asked is None or not asked.revision:
        return nothing_here(request)
    services, token, principal = services_of(request), token_of(request), principal_of(request)
    sees = principal.sees_everything and bool(principal.key_id)
    try:
        found = await while_connected(request, services.mirror.file(asked, token, sees_everything=sees))
    except errors.HubUnavailable:
        text = "The Hub cannot be asked, and this file is not on the disk."
        return refused(HubRefusal(503, "", text, retry_after="5"))
    if isinstance(found, HubRefusal):
        return refused(found)
    if _is_too_large(request, found):
        text = f"This file has {found.size} bytes, and huggingface_hub takes none over {HUB_CLIENT_MAX_BYTES} by HTTP."
        way_out = f"Fetch it with `hive pull {asked.repo}` into the cache that your tools read, or with curl -C -."
        return refused(HubRefusal(503, "", f"{text} {way_out}", found.commit))
    span, more = await _span(request, services, found)
    headers = file_headers(asked, found) + more
    if request.method == "HEAD" or span.status not in (200, 206):
        return FileResponse(services, span, found.size, headers)
    opened = await _open(services, asked, found)
    if opened is None:
        return await _fetched(request, services, asked, found, token, span, more)
    return FileResponse(services, span, found.size, headers, fd=opened)


async def _open(services: Services, asked: HubPath, found: HubFile) -> int | None:
    """A descriptor of the file where it is on the disk, whole; None where it is not."""
    place = await services.store_calls.run(
        find_repo_blob, services.settings.hub_dir, repo_folder(asked.repo), found.etag
    )
    if place is None or place.size != found.size:
        return None
    await services.mirror.write_refs(asked.repo, found.commit)
    with contextlib.suppress(FileNotFoundError):  # removed since
        return (await services.store_calls.run(open_blob, place, let_go=close_blob))[0]
    return None


async def _fetched(
    request: Request,
    services: Services,
    asked: HubPath,
    found: HubFile,
    token: str | None,
    span: Span,
    more: Headers,
) -> Response:
    """The file while it is fetched: by a download like any other, joined by all who ask for it."""
    try:
        ref = parse_ref(str(ModelRef(repo=asked.repo, revision=found.commit, path=asked.path)))
    except RefError as error:
        return refused(HubRefusal(404, "EntryNotFound", str(error), found.commit))
    owner = principal_of(request).owner
    spec = DownloadSpec(
        ref,
        hf_token=token,
        priority="high",
        request_id=logs.bound_field("request_id"),
        owner=owner,
        as_operator=False,
        origin="mirror",
    )
    key = (asked.repo, found.commit, services.mirror.hash_of(token), owner)
    made = await _ask_for_download(services, asked.path, spec, found.size, key)

    async def standing() -> bool | None:
        record = await services.commands.run(services.tracker.read, made.download_id)
        return None if record is not None and not record.is_terminal else record is not None and bool(record.local_path)

    growing = services.mirror.growing.follow(
        repo_folder(asked.repo),
        found.etag,
        found.size,
        made.download_id,
        standing,
        lambda: services.mirror.write_refs(asked.repo, found.commit),
    )
    growing.source()  # held until the answer has its own: it may be over before

    async def has_come() -> bool:
        return growing.is_over or growing.limit > span.start

    async def has_ended() -> bool:
        return await standing() is not None

    try:
        await _wait_until(request, has_come, lambda: _until_changed(growing, ASK_TO_WAIT_S / 2))
        if not (growing.is_wrong or growing.failed):
            if span.status == 206:
                # What it had may have been given up before this was looked at.
                span, more = await _span(request, services, found)
            head = file_headers(asked, found) + more
            return FileResponse(services, span, found.size, head, growing=growing, on_end=growing.close)
    except BaseException:
        growing.close()
        raise
    growing.close()
    if growing.is_wrong:  # nothing of it was sent, and it is fetched once more
        await _wait_until(request, has_ended, lambda: asyncio.sleep(END_LOOK_S))
        if (opened := await _open(services, asked, found)) is not None:
            span, more = await _span(request, services, found)
            return FileResponse(services, span, found.size, file_headers(asked, found) + more, fd=opened)
    services.mirror.small.failed(key)
    return await _failed(services, made.download_id)


async def _ask_for_download(services: Services, path: str, spec: DownloadSpec, size: int, key: BatchKey) -> Provisioned:
    """The download that brings this file: one of its own, or one of all small files of its commit that are asked for in
    the same moment. Raises HiveError.
    """

    async def ask_for(paths: tuple[str, ...]) -> Provisioned:
        if len(paths) == 1:
            return await services.downloads.request(spec)
        together = spec._replace(ref=ModelRef(repo=spec.ref.repo, revision=spec.ref.revision))
        return await services.downloads.request(together._replace(include=tuple(map(glob.escape, sorted(paths)))))

    return await (services.mirror.small.request(key, path, ask_for) if size <= SMALL_BYTES else ask_for((path,)))


async def _wait_until(request: Request, is_so: Callable[[], Awaitable[bool]], pause: Callable[[], Any]) -> None:
    """Return when it is so, or the client is to have the head at last. As many workers as files are a luxury: a client
    that can be asked to wait is, until it is this file's turn.
    """
    ask_to_wait = _ask_to_wait(request)
    began_s = asked_s = time.monotonic()
    while not await is_so():
        now_s = time.monotonic()
        if ask_to_wait is not None and now_s - asked_s >= ASK_TO_WAIT_S:
            ask_to_wait = ask_to_wait if ask_to_wait(request.scope) else None
            asked_s = now_s
        if now_s - began_s >= (MAX_WAIT_S if ask_to_wait is not None else FIRST_BYTES_S):
            return
        await while_connected(request, pause())


def _ask_to_wait(request: Request) -> AskToWait | None:
    """How this client is asked to wait; None where it is not one that knows, or somebody stands between."""
    agent = request.headers.get("user-agent", "")
    if not any(mark in agent for mark in PATIENT) or any(name in BETWEEN for name, _ in request.scope["headers"]):
        return None
    found: AskToWait | None = request.scope.get("extensions", {}).get(ASK_TO_WAIT)
    return found


def _is_too_large(request: Request, found: HubFile) -> bool:
    """Whether this client would refuse the file, with a word that leads nowhere; it takes the rest of one."""
    return (
        found.size > HUB_CLIENT_MAX_BYTES
        and "hf_hub/" in request.headers.get("user-agent", "")
        and "range" not in request.headers
    )


async def _until_changed(growing: GrowingFile, within_s: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(growing.changed.wait(), within_s)


async def _failed(services: Services, download_id: str) -> Response:
    """What a download that has ended without the file is told as."""
    record = await services.commands.run(services.tracker.read, download_id)
    event: Any = record.last_event if record is not None else None
    message = getattr(event, "message", None) or "The file could not be fetched."
    code = getattr(event, "code", "")
    if code == "MODEL_ACCESS_DENIED":
        return refused(HubRefusal(403, "GatedRepo", message))
    return refused(HubRefusal(503, "", f"{message} (download {download_id})", retry_after="5"))


async def _span(request: Request, services: Services, found: HubFile) -> tuple[Span, Headers]:
    """What of the file is sent: all of it where what came before under this digest was wrong. Then headers say that
    there are no ranges, for clients that ask before they go on, and would put whatever comes behind what they have.
    """
    headers, more = dict(request.scope["headers"]), Headers()
    if (b"range" in headers or request.method == "HEAD") and await services.mirror.growing.was_wrong(found.etag):
        headers.pop(b"range", None)
        more.append((b"accept-ranges", b"none"))
    return read_span(request.method, headers, found.size, f'"{found.etag}"'), more


def file_headers(asked: HubPath, found: HubFile) -> Headers:
    """What the Hub's clients look for."""
    name = asked.path.rpartition("/")[2]
    own: Headers = [
        (b"content-type", b"application/octet-stream"),
        (b"etag", f'"{found.etag}"'.encode()),
        (b"x-repo-commit", found.commit.encode()),
        (b"content-disposition", f"inline; filename*=UTF-8''{quote(name)}; filename=\"{quote(name)}\";".encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"content-security-policy", b"sandbox"),
    ]
    if found.is_lfs:
        own += [(b"x-linked-etag", f'"{found.etag}"'.encode()), (b"x-linked-size", b"%d" % found.size)]
    return own


def refused(what: HubRefusal) -> Response:
    """A refusal as the Hub's clients read it: by headers."""
    headers = {name: value for name, value in _refusal_headers(what).items() if value}
    return JsonResponse({"error": what.message or "Not found."}, status_code=what.status, headers=headers)


def _refusal_headers(what: HubRefusal) -> dict[str, str]:
    message = "".join(char if " " <= char <= "~" else "?" for char in what.message)
    return {
        "x-error-code": what.code,
        "x-error-message": message,
        "x-repo-commit": what.commit,
        "location": what.location,
        "retry-after": what.retry_after or ("5" if what.status in (429, 503) else ""),
        "www-authenticate": 'Bearer realm="hive"' if what.status == 401 else "",
    }


def nothing_here(request: Request) -> Response:
    """What is no address of the mirror."""
    code = why_not(_raw_path(request))
    text = "There is nothing at this address of the mirror."
    if code == NOT_MIRRORED:
        text += " It has the files and the listings of repositories: ask the Hub itself, without HF_ENDPOINT."
    return refused(HubRefusal(404, code, text))


async def tree_on_disk(
    request: Request, mirror: HubMirror, asked: HubPath, token: str | None
) -> tuple[str, tuple[RepoFile, ...]] | HubRefusal:
    """The commit and listing of a revision while the Hub is away, as far as this caller may see it."""
    principal = principal_of(request)
    sees = principal.sees_everything and bool(principal.key_id)
    found = await mirror.tree_on_disk(asked, token, sees_everything=sees)
    return found if found is not None else NOT_ON_DISK


async def _info_on_disk(
    request: Request, mirror: HubMirror, asked: HubPath, token: str | None, body: bytes
) -> Response:
    found = await tree_on_disk(request, mirror, asked, token) if asked.verb != "commits" else NOT_ON_DISK
    if isinstance(found, HubRefusal):
        return refused(found)
    commit, tree = found
    headers = {"x-repo-commit": commit}
    if asked.verb == "auth-check":
        return JsonResponse({}, headers=headers)
    if asked.verb == "refs":
        main = {"name": "main", "ref": "refs/heads/main", "targetCommit": commit}
        return JsonResponse({"branches": [main], "converts": [], "tags": []}, headers=headers)
    if asked.verb == "paths-info":
        wanted = paths_of(body)
        folders = {parent for each in tree for parent in parents(each.path)} & wanted
        files = (entry(each) for each in tree if each.path in wanted)
        return JsonResponse([*files, *map(folder, sorted(folders))], headers=headers)
    if asked.verb == "tree":
        return _tree_page(request, asked, commit, tree)
    name = "/".join(asked.repo.split("/")[-2:])
    answer = {
        "id": name,
        **({} if asked.repo.startswith(REPO_KINDS) else {"modelId": name}),
        "sha": commit,
        "private": False,
        "gated": False,
        "disabled": False,
        "tags": [],
        "downloads": 0,
        "likes": 0,
        "siblings": [{"rfilename": each.path} for each in tree],
    }
    return JsonResponse(answer, headers=headers)


def _tree_page(request: Request, asked: HubPath, commit: str, tree: tuple[RepoFile, ...]) -> Response:
    """A page of a listing, files of all folders where it is to be recursive, else those of one and its folders."""
    prefix = f"{asked.path}/" if asked.path else ""
    files = [each for each in tree if each.path.startswith(prefix)]
    if prefix and not files:
        return refused(HubRefusal(404, "EntryNotFound", "This commit has no such folder.", commit))
    entries: list[dict[str, Any]]
    if request.query_params.get("recursive", "").lower() in ("true", "1"):
        entries = [entry(each) for each in files]
    else:
        here = [each for each in files if "/" not in each.path[len(prefix) :]]
        below = (each.path[len(prefix) :].partition("/") for each in files)
        folders = dict.fromkeys(prefix + folder for folder, slash, _ in below if slash)
        entries = [
            *map(folder, folders),
            *(entry(each) for each in here),
        ]
    text = request.query_params.get("cursor", "0")
    start = int(text) if text.isascii() and text.isdecimal() and len(text) < 9 else 0
    headers = {"x-repo-commit": commit}
    if start + PAGE_ENTRIES < len(entries):
        path = request.scope["raw_path"].decode("latin-1")
        flags = f"recursive={request.query_params.get('recursive', 'false')[:5]}&cursor={start + PAGE_ENTRIES}"
        headers["link"] = f'<{str(request.base_url).rstrip("/")}{path}?{quote(flags, safe="=&")}>; rel="next"'
    return JsonResponse(entries[start : start + PAGE_ENTRIES], headers=headers)


def _rest(asked: HubPath) -> str:
    parts = [asked.verb, asked.rev, quote(asked.path)] if asked.verb else []
    return "".join(f"/{part}" for part in parts if part)


async def _read_form(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise errors.BodyTooLarge(limit_bytes=MAX_BODY_BYTES)
    return bytes(body)


def _raw_path(request: Request) -> bytes:
    raw: bytes = request.scope.get("raw_path") or request.scope["path"].encode()
    return raw.partition(b"?")[0]


def token_of(request: Request) -> str | None:
    """The Hub's token of this client: in a header of its own, or the bearer that is no key of hive."""
    given = request.headers.get(HUB_TOKEN_HEADER) or bearer(request.scope, dict(request.scope["headers"])) or ""
    if not given or LIKE_KEY.fullmatch(given):
        return None
    if not _TOKEN.fullmatch(given):
        raise errors.BadRequest("The token holds blanks or special characters.")
    return given
