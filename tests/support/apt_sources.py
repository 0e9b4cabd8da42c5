"""The mirror of Debian that this machine's own apt sources name: a machine behind a mirror of its own reaches no other.

Both forms are read: a line for each source (`sources.list`, `*.list`) and deb822 (`*.sources`).
"""

from __future__ import annotations

import contextlib
import email
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

APT: Final = Path("/etc/apt")
#: Kinds of addresses that are read.
SCHEMES: Final = ("http", "https", "file", "copy")
#: What switches a source of the second form off.
OFF: Final = ("no", "false", "off", "0")
_LINE: Final = re.compile(r"\s*deb\s+(?:\[[^\]]*\]\s*)?(\S+)\s+(\S+)([^#]*)")


class _Source(NamedTuple):
    """One address, and what is there."""

    uri: str
    suites: list[str]
    components: list[str]


def debian_mirror(suite: str, folder: Path = APT) -> str:
    """The address of a mirror of Debian, one that is named with `suite` if there is any: a mirror has all suites.

    Raises:
        RuntimeError: no source names one.
    """
    ranked: list[tuple[bool, bool, str]] = []
    for source in _sources(folder):
        is_debian, has_suite = source.uri.rstrip("/").endswith("/debian"), suite in source.suites
        is_readable = urlsplit(source.uri).scheme in SCHEMES and "main" in source.components
        if is_readable and (is_debian or has_suite):
            ranked.append((is_debian, has_suite, source.uri))
    if not ranked:
        raise RuntimeError(
            f"No mirror of Debian is named in {folder}/sources.list or {folder}/sources.list.d. Add a source with "
            f"`{suite}` and `main`, or let this machine reach a registry of images."
        )
    return max(ranked, key=lambda found: found[:2])[2]


def _sources(folder: Path) -> Iterator[_Source]:
    below = folder / "sources.list.d"
    for path in (folder / "sources.list", *sorted(below.glob("*.list"))):
        yield from _of_lines(_text(path))
    for path in sorted(below.glob("*.sources")):
        yield from _of_stanzas(_text(path))


def _text(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text(errors="replace")
    return ""


def _of_lines(text: str) -> Iterator[_Source]:
    for line in text.splitlines():
        if (found := _LINE.match(line)) is not None:
            yield _Source(found[1], [found[2]], found[3].split())


def _of_stanzas(text: str) -> Iterator[_Source]:
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    for stanza in re.split(r"\n\s*\n", "\n".join(lines).strip()):
        fields = email.message_from_string(stanza)
        if "deb" in fields.get("Types", "").split() and fields.get("Enabled", "yes").strip().lower() not in OFF:
            for uri in fields.get("URIs", "").split():
                yield _Source(uri, fields.get("Suites", "").split(), fields.get("Components", "").split())
