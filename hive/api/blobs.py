"""Contents by their digest: the bytes of the store, for whoever may have them."""

from __future__ import annotations

import base64
import contextlib
import os

from starlette.requests import Request
from starlette.responses import Response

from hive import errors
from hive.api.disconnect import while_connected
from hive.api.file_response import FileResponse, Headers
from hive.api.services import Services, services_of
from hive.auth.principal import principal_of
from hive.doors.ranges import read_span
from hive.store.blobs import SHA256, close_blob, find_blob, open_blob
from hive.wire.api import HUB_TOKEN_HEADER

#: What is before the digest in an address.
PREFIX = "sha256:"


async def content(request: Request) -> Response:
    """`GET /v1/blobs/sha256:<hex>`, and HEAD: the content of this digest, whole or a range of it."""
    services, name = services_of(request), request.path_params["digest"]
    digest = name.removeprefix(PREFIX)
    if not (name.startswith(PREFIX) and SHA256.fullmatch(digest)):
        raise errors.NotFound("A content is named sha256: and 64 hex digits in lower case.")
    fd, size = await _open(request, services, digest)
    span = read_span(request.method, dict(request.scope["headers"]), size, f'"{digest}"')
    if request.method == "HEAD":
        os.close(fd)
        return FileResponse(services, span, size, blob_headers(digest))
    return FileResponse(services, span, size, blob_headers(digest), fd=fd)


def blob_headers(digest: str) -> Headers:
    """What says which content it is: a strong ETag, and the digest of the whole (RFC 9530)."""
    encoded = base64.b64encode(bytes.fromhex(digest))
    return [
        (b"content-type", b"application/octet-stream"),
        (b"etag", b'"%b"' % digest.encode()),
        (b"repr-digest", b"sha-256=:%b:" % encoded),
        (b"x-content-type-options", b"nosniff"),
        # A page that opens it is to save it: nothing of the store is a page of this server.
        (b"content-disposition", b"attachment"),
        (b"content-security-policy", b"sandbox"),
    ]


async def _open(request: Request, services: Services, digest: str) -> tuple[int, int]:
    """A descriptor of it and its size in bytes, from a place that this caller may see. Raises NotFound, also where
    others alone may.
    """
    principal, token = principal_of(request), request.headers.get(HUB_TOKEN_HEADER) or None
    places = await services.store_calls.run(find_blob, services.settings.hub_dir, services.settings.hive_dir, digest)
    for place in places:
        if await while_connected(request, services.access.may_use(place.path, principal, token)):
            with contextlib.suppress(FileNotFoundError):  # removed since
                return await services.store_calls.run(open_blob, place, let_go=close_blob)
    raise errors.NotFound("There is no content of this digest in the store.", digest=f"{PREFIX}{digest}")
