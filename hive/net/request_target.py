"""The target of a request in absolute form: `GET http://host/path` in place of `GET /path` (RFC 9112, section 3.2.2).

A client writes it that takes hive for a proxy, and a server must understand it: the host is then the target's, and the
Host header counts for nothing. Where the two differ, whoever judges one of them and makes addresses of the other is
led astray.
"""

from __future__ import annotations

import re

_ABSOLUTE = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://([^/?#]*)(.*)", re.DOTALL)


def split_target(target: bytes) -> tuple[bytes | None, bytes]:
    """The authority that a target names, None where it names none, and the target in origin form."""
    found = _ABSOLUTE.fullmatch(target)
    if found is None:
        return None, target
    return found[1], found[2] if found[2].startswith(b"/") else b"/" + found[2]


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
