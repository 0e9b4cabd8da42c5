"""Addresses of the Hub as its clients write them, read once, from the bytes of the request.

Problem: a revision may hold slashes, percent-encoded (`refs%2Fpr%2F1`). Who decodes the path first cannot tell them
from the path's own. So the raw path is split, and then each part decoded, once. What decodes to no repository, no
revision, or no path that may lie below a folder is no address: nothing of it goes to the disk, to the Hub or to a log.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple
from urllib.parse import quote, unquote_to_bytes

from hive.wire.refs import is_revision, path_problem

#: Names that are no organisation: what begins with them are addresses of their own.
RESERVED: Final = frozenset({"v1", "v2", "api", "datasets", "spaces"})
#: What is told of what the Hub has below `/api`, and hive has not.
NOT_MIRRORED: Final = "NotMirrored"
#: The longest address that is read, in bytes.
MAX_PATH_BYTES: Final = 4_096
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_SPELT_OUT: Final = re.compile(r"(refs/(?:pr|heads|tags|convert)/[^/]+)(?:/(.*))?", re.DOTALL)
_INFO: Final = re.compile(
    r"/api/(?P<kind>models/|datasets/|spaces/)(?P<repo>[^/]+/[^/]+|[^/]+)"
    r"(?:/(?P<verb>revision|tree|paths-info|refs|commits|auth-check)(?:/(?P<rest>.+))?)?",
    re.DOTALL,
)
_RESOLVE: Final = re.compile(r"/(?P<kind>datasets/|spaces/)?(?P<repo>[^/]+(?:/[^/]+)?)/resolve/(?P<rest>.+)", re.DOTALL)


class HubPath(NamedTuple):
    """What an address of the Hub means. `repo` begins with `datasets/` or `spaces/` where it is no model; `verb` is ""
    for the repository itself, `path` "" for none.
    """

    repo: str
    verb: str
    revision: str
    path: str

    @property
    def rev(self) -> str:
        """The revision in one segment of an address."""
        return quote(self.revision, safe="")


def read_info_path(raw: bytes) -> HubPath | None:
    """An address below `/api/models`, `/api/datasets` or `/api/spaces`, or None."""
    return _read(_INFO.fullmatch(raw.decode("latin-1")), raw)


def read_resolve_path(raw: bytes) -> HubPath | None:
    """An address of a file of a repository, or None."""
    found = _read(_RESOLVE.fullmatch(raw.decode("latin-1")), raw)
    return found if found is not None and found.path else None


def why_not(raw: bytes) -> str:
    """The Hub's code for an address that is none: of no revision, of no file; one of hive's own, which
    no client knows and all of them show, where hive has nothing of the kind.
    """
    text = raw.decode("latin-1")
    match = _INFO.fullmatch(text) or _RESOLVE.fullmatch(text)
    if match is None and text.startswith("/api/"):
        return NOT_MIRRORED
    if match is None or len(raw) > MAX_PATH_BYTES or not _is_repo(_decoded(match["repo"]) or "."):
        return "EntryNotFound"
    revision = _split(match["rest"] or "")[0]
    return "RevisionNotFound" if revision and not is_revision(revision) else "EntryNotFound"


def _split(rest: str) -> tuple[str | None, str | None]:
    """Revision and path of what follows the verb; None for what is no text."""
    spelt = _SPELT_OUT.fullmatch(rest)
    revision, path = (spelt[1], spelt[2] or "") if spelt else rest.partition("/")[::2]
    return _decoded(revision), _decoded(path)


def _read(match: re.Match[str] | None, raw: bytes) -> HubPath | None:
    if match is None or len(raw) > MAX_PATH_BYTES:
        return None
    groups = match.groupdict()
    repo = _decoded(groups["repo"])
    revision, path = _split(groups.get("rest") or "")
    if repo is None or revision is None or path is None or not _is_repo(repo):
        return None
    if (revision and not is_revision(revision)) or (path and path_problem(path) is not None):
        return None
    kind = (groups["kind"] or "").removeprefix("models/")
    return HubPath(kind + repo, groups.get("verb") or ("" if "verb" in groups else "resolve"), revision, path)


def _is_repo(repo: str) -> bool:
    parts = repo.split("/")
    return parts[0].lower() not in RESERVED and all(
        _NAME.fullmatch(part) and ".." not in part and "--" not in part for part in parts
    )


def _decoded(text: str) -> str | None:
    try:
        return unquote_to_bytes(text.encode("latin-1")).decode()
    except UnicodeDecodeError:
        return None
