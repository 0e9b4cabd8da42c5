"""Ollama's client API: what is on the disk and in memory, and pulls, for clients whose OLLAMA_HOST is this server.

A door: a pull is a download like any other, and a model in memory an LLM worker; nothing is kept here but the heads of
files that were read.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from hive import errors, logs
from hive.api.disconnect import while_connected
from hive.api.json import JsonResponse, error_response, read_body
from hive.api.models import remove
from hive.api.ollama_lines import NdjsonResponse, line
from hive.api.services import Services, services_of
from hive.auth.principal import Principal, principal_of
from hive.doors.ollama_names import name_of, read_name, same_name
from hive.downloads.record import Record
from hive.error_codes import from_code
from hive.wire.api import HUB_TOKEN_HEADER, Model
from hive.wire.events import Downloading, Error
from hive.wire.gguf import DEFAULT_QUANT, quant_of
from hive.wire.refs import REPO_KINDS
from hive.wire.spec import DownloadSpec

#: The version of Ollama whose API this is.
VERSION: Final = "0.13.5"
#: Seconds between two looks at a pull, and for which the same line is not said again.
LOOK_S: Final = 1.0
REPEAT_S: Final = 10.0
#: Seconds that stand for a model which stays without an end: Go's longest duration, from which clients know it.
ALWAYS_S: Final = float(2**63 // 10**9)
#: Heads of files that are remembered.
MAX_HEADS: Final = 2_000
#: Characters of a text of a head that is shown.
MAX_TEXT_CHARS: Final = 65_536
#: What a file is made of, by the number in its head.
FILE_TYPES: Final = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    7: "Q8_0",
    8: "Q5_0",
    9: "Q5_1",
    10: "Q2_K",
    11: "Q3_K_S",
    12: "Q3_K_M",
    13: "Q3_K_L",
    14: "Q4_K_S",
    15: "Q4_K_M",
    16: "Q5_K_S",
    17: "Q5_K_M",
    18: "Q6_K",
    32: "BF16",
}


class _Named(msgspec.Struct, frozen=True, kw_only=True):
    """A body that names a model, by either word."""

    model: str = ""
    name: str = ""
    stream: bool | None = None


class Heads:
    """What the heads of models' files say, read once for each file as it is. Its method blocks."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, int, int, bool], dict[str, Any]] = OrderedDict()

    def read(self, path: str, *, whole: bool = False) -> dict[str, Any]:
        """The fields of a GGUF file; none of what is no such file, or cannot be read."""
        from hive.serving.gguf_header import read_head

        if not path.lower().endswith(".gguf"):
            return {}
        try:
            stat = os.stat(path)
            key = (path, stat.st_mtime_ns, stat.st_size, whole)
            found = self._known.get(key)
            if found is None:
                found = self._known[key] = dict(read_head(Path(path), whole=whole))
        except (OSError, errors.ModelNotServable):
            return {}
        while len(self._known) > MAX_HEADS:
            self._known.popitem(last=False)
        return found


_heads: Final = Heads()


async def version(request: Request) -> Response:
    """`GET /api/version`: the version of Ollama whose API this is."""
    return JsonResponse({"version": VERSION})


async def tags(request: Request) -> Response:
    """`GET /api/tags`: the models on the disk."""
    services, found = services_of(request), await visible(request)
    heads = await services.store_calls.run(lambda: [_heads.read(model.path) for model in found])
    return JsonResponse({"models": [_listed(model, head) for model, head in zip(found, heads, strict=True)]})


async def running(request: Request) -> Response:
    """`GET /api/ps`: the models in memory."""
    from hive.api.llm import seen

    services, models = services_of(request), {model.id: model for model in await visible(request)}
    found = []
    for record in await seen(request):
        model = models.get(record.model_id)
        if model is not None and record.is_serving:
            head = await services.store_calls.run(_heads.read, model.path)
            ends_s = (record.activity_ms / 1000 or time.time()) + (record.idle_s or ALWAYS_S)
            more = {
                "expires_at": _iso(ends_s),
                "size_vram": 0 if record.backend == "cpu" else model.size,
                "context_length": record.context,
            }
            found.append({**_listed(model, head), **more})
    return JsonResponse({"models": found})


async def show(request: Request) -> Response:
    """`POST /api/show`: one model on the disk."""
    asked = await read_body(request, _Named)
    model = await find(request, asked.model or asked.name)
    head = await services_of(request).store_calls.run(lambda: _heads.read(model.path, whole=True))
    template = str(head.get("tokenizer.chat_template", ""))[:MAX_TEXT_CHARS]
    fields = {name: value for name, value in head.items() if name != "tokenizer.chat_template" and _is_short(value)}
    is_encoder = any(name.endswith(".pooling_type") for name in head)
    capabilities = ["embedding"] if is_encoder else ["completion", *(["tools"] if "tools" in template else [])]
    info = {"general.architecture": "unknown", "general.parameter_count": 0, **fields}
    answer = {
        "modelfile": "",
        "parameters": "",
        "template": template,
        "license": str(head.get("general.license", ""))[:MAX_TEXT_CHARS],
        "details": _details(model, head),
        "model_info": info,
        "capabilities": capabilities,
        "modified_at": _iso(model.created),
    }
    return JsonResponse(answer)


async def delete(request: Request) -> Response:
    """`DELETE /api/delete`: remove a model from the disk."""
    asked = await read_body(request, _Named)
    model = await find(request, asked.model or asked.name)
    await remove(services_of(request), model)
    return Response(status_code=200)


async def pull(request: Request) -> Response:
    """`POST /api/pull`: bring a model, told in lines; it goes on when the client leaves."""
    asked = await read_body(request, _Named)
    name = asked.model or asked.name
    ref = read_name(name)
    if ref is None:
        raise errors.ModelNotFound("pull model manifest: file does not exist")
    services, principal = services_of(request), principal_of(request)
    services.rates.admit_ask(request)
    spec = DownloadSpec(
        ref,
        hf_token=request.headers.get(HUB_TOKEN_HEADER) or None,
        request_id=logs.bound_field("request_id"),
        owner=principal.owner,
        as_operator=principal.may("admin"),
        origin="ollama",
    )
    made = await services.downloads.request(spec)
    lines = _pulling(request, made.download_id, is_on_disk=bool(made.local_path))
    if asked.stream is not False:
        return NdjsonResponse(lines)
    return await while_connected(request, _last(lines))


async def _last(lines: AsyncGenerator[bytes, None]) -> Response:
    """All of a pull in one answer. Raises HiveError as it ends."""
    found = b""
    async for each in lines:
        found = each
    return Response(found, media_type="application/json")


async def _pulling(request: Request, download_id: str, *, is_on_disk: bool) -> AsyncGenerator[bytes, None]:
    """The lines of a pull. Raises HiveError as the download ends, and where it cannot be watched any more."""
    with services_of(request).long_polls.holding(request):
        async for each in _watched(services_of(request), download_id, principal_of(request), is_on_disk=is_on_disk):
            yield each


async def _watched(
    services: Services, download_id: str, principal: Principal, *, is_on_disk: bool
) -> AsyncGenerator[bytes, None]:
    digest = hashlib.sha256(download_id.encode()).hexdigest()
    said, said_s = {"status": "pulling manifest"}, time.monotonic()
    yield line(said)
    while not is_on_disk:
        record = await services.downloads.find(download_id, principal)
        if record.is_terminal:
            _check_end(record)
            break
        now = _status(record, digest)
        if now != said or time.monotonic() - said_s >= REPEAT_S:
            said, said_s = now, time.monotonic()
            yield line(said)
        if services.polls.is_draining:
            raise errors.ServerBusy("This server is stopping; the download goes on. Pull again to watch it.")
        await services.polls.wait(download_id, LOOK_S, principal)
    for status in ("verifying sha256 digest", "writing manifest", "success"):
        yield line({"status": status})


def _status(record: Record, digest: str) -> dict[str, Any]:
    """How a download stands: one bar for all of its files."""
    event = record.last_event
    if not isinstance(event, Downloading) or not event.bytes_total:
        return {"status": "pulling manifest"}
    done = min(event.bytes_downloaded, event.bytes_total)
    bar = {"digest": f"sha256:{digest}", "total": event.bytes_total, "completed": done}
    return {"status": f"pulling {digest[:12]}", **bar}


def _check_end(record: Record) -> None:
    """Raise the error that a download has ended with."""
    event = record.last_event
    if isinstance(event, Error):
        if event.code in ("MODEL_NOT_FOUND", "VARIANT_NOT_FOUND"):
            raise errors.ModelNotFound(f"pull model manifest: file does not exist ({event.message})")
        raise from_code(event.code or "DOWNLOAD_FAILED", event.message, event.details or {})


async def not_here(request: Request) -> Response:
    """What else Ollama's API has: models are made and given away elsewhere."""
    path = request.url.path
    return error_response(errors.NotFound(f"hive does not answer {path[:64]}; see docs/ollama.md"), path, 501)


# -- models ------------------------------------------------------------------------------------------------------------


async def visible(request: Request) -> list[Model]:
    """The models on the disk that this caller may see, and can name: no data sets, and no single files."""
    services = services_of(request)
    listed = await services.store_calls.run(services.catalog.list)
    models = [m for m in listed if not m.id.startswith(REPO_KINDS) and read_name(name_of(m.id)) is not None]
    token = request.headers.get(HUB_TOKEN_HEADER) or None
    return await while_connected(request, services.access.visible(models, principal_of(request), token))


async def find(request: Request, name: str) -> Model:
    """The model on the disk that a name means. Raises ModelNotOnDisk."""
    ref = read_name(name)
    if ref is not None:
        revision = f"@{ref.revision}" if ref.revision else ""
        wanted = name_of(f"{ref.repo}{revision}{':' + ref.quant if ref.quant else ''}")
        models = await visible(request)
        for model in models:
            if same_name(name_of(model.id), wanted):
                return model
        mine = [model for model in models if same_name(model.id.partition(":")[0], f"{ref.repo}{revision}")]
        if ref.quant is None and mine:
            # What a pull of this name would bring, else what came last.
            return max(mine, key=lambda model: (_quant(model).removeprefix("UD-") == DEFAULT_QUANT, model.created))
    raise errors.ModelNotOnDisk(f"model '{name[:200]}' not found")


def _listed(model: Model, head: dict[str, Any]) -> dict[str, Any]:
    name = name_of(model.id)
    digest = hashlib.sha256(f"{model.id}\n{model.revision}".encode()).hexdigest()
    return {
        "name": name,
        "model": name,
        "modified_at": _iso(model.created),
        "size": model.size,
        "digest": digest,
        "details": _details(model, head),
    }


def _details(model: Model, head: dict[str, Any]) -> dict[str, Any]:
    family = str(head.get("general.architecture", ""))[:64]
    parameters = head.get("general.parameter_count")
    size = str(head.get("general.size_label", ""))[:32] or (_short(parameters) if isinstance(parameters, int) else "")
    return {
        "parent_model": "",
        "format": "gguf" if model.path.lower().endswith(".gguf") else "safetensors",
        "family": family,
        "families": [family] if family else [],
        "parameter_size": size,
        "quantization_level": _quant(model) or FILE_TYPES.get(head.get("general.file_type", -1), "unknown"),
    }


def _quant(model: Model) -> str:
    """The quantisation that a model's name gives; "" where it gives none."""
    return quant_of(model.variant or "") or ""


def _short(count: int) -> str:
    """A number of parameters, as people say it."""
    return f"{count / 1e9:.1f}B" if count >= 1e9 else f"{count / 1e6:.1f}M"


def _is_short(value: Any) -> bool:
    return isinstance(value, int | float | bool) or (isinstance(value, str) and len(value) <= MAX_TEXT_CHARS)


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
