"""The target of a request in absolute form: `GET http://host/path` in place of `GET /path` (RFC 9112, section 3.2.2).

A client writes it that takes hive for a proxy, and a server must understand it: the host is then the target's, and the
Host header counts for nothing. Where the two differ, whoever judges one of them and makes addresses of the other is
led astray.
"""

from __future__ import annotations

import re

_HAS_SCHEME = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://")
_ABSOLUTE = re.compile(rb"https?://([^/?#\[\]]+|\[[0-9a-f:.]+\](?::\d*)?)([/?].*)?", re.DOTALL | re.IGNORECASE)


def split_target(target: bytes) -> tuple[bytes | None, bytes]:
    """The authority that a target names, None where it names none, and the target in origin form; b"" of one that is no
    address of HTTP.
    """
    if not _HAS_SCHEME.match(target):
        return None, target
    if (found := _ABSOLUTE.fullmatch(target)) is None:
        return None, b""
    path = found[2] or b"/"
    return found[1], path if path.startswith(b"/") else b"/" + path


def origin_form(target: bytes, headers: list[tuple[bytes, bytes]], version: str) -> bytes:
    """The target in origin form. Its authority takes the place of the Host in `headers` (names in lower case), or of
    none in HTTP/1.0. Where else there is not one Host, which is an error of its own, they stay as they are.
    """
    authority, target = split_target(target)
    hosts = [index for index, (name, _) in enumerate(headers) if name == b"host"]
    if authority is not None and len(hosts) == 1:
        headers[hosts[0]] = (b"host", authority)
    elif authority is not None and not hosts and version == "1.0":
        headers.append((b"host", authority))
    return target
