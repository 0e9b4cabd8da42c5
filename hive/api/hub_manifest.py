"""The address by which older llama.cpp asks for a GGUF repository: which file a tag means.

    GET /v2/<org>/<name>/manifests/<tag>     {"ggufFile": {"rfilename", "size"}, "mmprojFile": {...}}

Written after llama.cpp's common/download.cpp: it takes the two names, and then `/<org>/<name>/resolve/main/<name>`.
"""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from hive import errors
from hive.api.disconnect import while_connected
from hive.api.hub_mirror import nothing_here, refused, token_of, tree_on_disk
from hive.api.json import JsonResponse
from hive.api.services import services_of
from hive.doors.hub_mirror import HubRefusal, refusal_of
from hive.doors.hub_paths import HubPath, read_info_path
from hive.wire.gguf import DEFAULT_QUANT, main_models, matching, projector_for, variants
from hive.wire.refs import ANY_QUANT, api_place
from hive.wire.selection import RepoFile


class _Lfs(msgspec.Struct):
    sha256: str


class _Sibling(msgspec.Struct):
    rfilename: str
    size: int = 0
    blob_id: str = msgspec.field(default="", name="blobId")
    lfs: _Lfs | None = None


class _Info(msgspec.Struct):
    siblings: list[_Sibling] = []


async def manifest(request: Request) -> Response:
    """`GET /v2/{org}/{name}/manifests/{tag}`: the GGUF file that a tag means, and its projector."""
    org, name, tag = (request.path_params[part] for part in ("org", "name", "tag"))
    asked = read_info_path(f"/api/models/{org}/{name}/revision/main".encode())
    if asked is None:
        return nothing_here(request)
    found = await while_connected(request, _files(request, asked))
    if isinstance(found, HubRefusal):
        return refused(found)
    models = [model for model in main_models(variants(found)) if not model.missing and not model.raw_parts]
    is_any = tag.lower() == ANY_QUANT
    chosen = matching(models, DEFAULT_QUANT if is_any else tag) or (models if is_any else [])
    if not chosen:
        has = ", ".join(model.name for model in models[:20]) or "no GGUF file"
        return refused(HubRefusal(404, "EntryNotFound", f"The model has no {tag[:64]}. It has: {has}."))
    projector = projector_for(chosen[0], found)
    more = {"mmprojFile": _told(projector)} if projector is not None else {}
    return JsonResponse({"schemaVersion": 2, "ggufFile": _told(chosen[0].files[0]), **more})


async def _files(request: Request, asked: HubPath) -> tuple[RepoFile, ...] | HubRefusal:
    """What the branch has, as the Hub or the disk says."""
    mirror, token = services_of(request).mirror, token_of(request)
    try:
        answer = await mirror.upstream.ask("GET", f"/api/{api_place(asked.repo)}/revision/main?blobs=true", token)
        if answer.status != 200:
            return refusal_of(answer)
        siblings = msgspec.json.decode(answer.body, type=_Info).siblings
        return tuple(RepoFile(s.rfilename, s.size, s.blob_id, s.lfs.sha256 if s.lfs else None) for s in siblings)
    except (errors.HubUnavailable, msgspec.DecodeError, UnicodeDecodeError):
        on_disk = await tree_on_disk(request, mirror, asked, token)
        return on_disk if isinstance(on_disk, HubRefusal) else on_disk[1]


def _told(file: RepoFile) -> dict[str, Any]:
    lfs = {"lfs": {"sha256": file.sha256, "size": file.size}} if file.sha256 else {}
    return {"rfilename": file.path, "blobId": file.blob_id, "size": file.size, **lfs}
