"""Access notes: what of the store was fetched under an authorisation, and whom the Hub has let in.

Problem: a gated or private model came with somebody's token, and once it is on the disk its files say nothing of that:
whoever may ask the store would get what the Hub would refuse them. The easy way, to keep the tokens and compare, keeps
tokens. So beside the models lie notes that name no secret: for a commit, of which file the Hub is to be asked whether
a caller may have it (hive/downloads/access.py asks); and whom it has let in, by the time of their note.

    hive/restricted/models--org--name/<commit>/<hash>.place    a repository, a commit and a path, as JSON
    hive/restricted/models--org--name/<commit>/<hash>.owner    an owner; the file's time is when they were let in
    hive/restricted/url/<16 hex of sha256(url)>/<hash>.owner   a file whose URL had a query: who knew it

A file for each fact, so that two writers cannot undo each other. The note is there before the first file is, and a
commit without one is public: it was fetched without a token, or by something else than hive.

A commit has several places where content of another restricted repository was linked into it (workers/reuse.py): who
sees it must be let in to all.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from hive.store.dirfd import open_folder, read_file, subfolders, write_file
from hive.store.layout import FILES, RESTRICTED, SNAPSHOTS, is_commit, repo_folder, repo_of, url_key

#: Seconds for which the Hub's yes to an owner counts; and while the Hub cannot be asked.
YES_TTL_S: Final = 600.0
UNASKED_TTL_S: Final = 7 * 86_400.0
#: Bytes of a note, and notes of one commit that are read.
MAX_NOTE_BYTES: Final = 8 << 10
MAX_NOTES: Final = 10_000
#: Hex digits of the hash that names a note.
_NAME_CHARS: Final = 32

_PLACE, _OWNER = ".place", ".owner"
_URLS: Final = "url"


class ProbeFile(msgspec.Struct, frozen=True, order=True):
    """A file of the Hub, by which it is seen whether somebody may have a commit: its largest, the weights."""

    repo: str
    commit: str
    path: str


class Known(NamedTuple):
    """What is known of a commit on the disk: what the Hub is to be asked, and whether the owner was let in lately."""

    places: tuple[ProbeFile, ...] = ()
    let_in: bool = True
    let_in_before: bool = True


#: Of what everybody may see.
PUBLIC: Final = Known()


class AccessNotes:
    """The notes of one store. Blocking; methods raise OSError where it cannot be read or written."""

    def __init__(self, hive: Path) -> None:
        self._hive = hive

    def places(self, repo: str, commit: str) -> tuple[ProbeFile, ...]:
        """What the Hub has to be asked of this commit; nothing where it is public. A note that cannot be read is one
        of which nobody can be let in.
        """
        with open_folder(self._hive, RESTRICTED, repo_folder(repo), commit, missing_ok=True) as notes:
            return _places_in(notes, repo, commit) if notes is not None else ()

    def places_of_repo(self, repo: str) -> tuple[ProbeFile, ...]:
        """The same of every commit of a repository, which share their files."""
        folder = repo_folder(repo)
        with open_folder(self._hive, RESTRICTED, folder, missing_ok=True) as commits:
            names = [name for name in subfolders(commits) if is_commit(name)] if commits is not None else []
        return tuple(dict.fromkeys(place for commit in names for place in self.places(repo, commit)))

    def restricted(self) -> frozenset[tuple[str, str]]:
        """Every restricted commit of the store, with its repository."""
        found: set[tuple[str, str]] = set()
        with open_folder(self._hive, RESTRICTED, missing_ok=True) as repos:
            for folder in subfolders(repos) if repos is not None else ():
                repo = repo_of(folder)
                if repo is None or repos is None:
                    continue
                with contextlib.suppress(FileNotFoundError), open_folder(repos, folder) as commits:
                    found.update((repo, commit) for commit in subfolders(commits))
        return frozenset(found)

    def note(self, repo: str, commit: str, places: Iterable[ProbeFile]) -> None:
        """Note that a commit is restricted."""
        with open_folder(self._hive, RESTRICTED, repo_folder(repo), commit, create=True) as notes:
            for place in places:
                name = _name(place.repo) + _PLACE
                data = msgspec.json.encode(place)
                if read_file(notes, name, MAX_NOTE_BYTES) != data:
                    write_file(notes, name, data)

    def let_in(self, repo: str, commit: str, owner: str) -> None:
        """Note that the Hub has let this owner in just now."""
        with open_folder(self._hive, RESTRICTED, repo_folder(repo), commit, create=True) as notes:
            _write_owner(notes, owner)

    def was_let_in(self, repo: str, commit: str, owner: str, within_s: float = YES_TTL_S) -> bool:
        """Whether it has, within so many seconds."""
        with open_folder(self._hive, RESTRICTED, repo_folder(repo), commit, missing_ok=True) as notes:
            return notes is not None and _was_written(notes, owner, within_s)

    def known(self, repo: str, commit: str, owner: str) -> Known:
        """What is known of a commit, and of this owner."""
        places = self.places(repo, commit)
        if not places:
            return PUBLIC
        let_in_before = self.was_let_in(repo, commit, owner, UNASKED_TTL_S)
        return Known(places, self.was_let_in(repo, commit, owner), let_in_before)

    def known_of_file(self, hub: Path, path: Path, owner: str) -> Known | None:
        """The same of the commit that a file of the store is of; None for one that only others may see. What lies in a
        repository and in none of its snapshots is of all its commits.
        """
        if path.is_relative_to(self._hive / FILES):
            key = path.relative_to(self._hive / FILES).parts[0]
            return PUBLIC if self.may_see_url(key, owner) else None
        folder, kind, commit, *_ = (*path.relative_to(hub).parts, "", "", "") if path.is_relative_to(hub) else ("",) * 3
        repo = repo_of(folder)
        if repo is None:
            return PUBLIC
        if kind == SNAPSHOTS and is_commit(commit):
            return self.known(repo, commit, owner)
        places = self.places_of_repo(repo)
        return Known(places, False, False) if places else PUBLIC

    def note_url(self, url: str, owner: str) -> None:
        """Note that this owner knows a URL with a query, which may be a permission; "" for nobody in particular."""
        with open_folder(self._hive, RESTRICTED, _URLS, url_key(url), create=True) as notes:
            if owner:
                _write_owner(notes, owner)

    def may_see_url(self, key: str, owner: str) -> bool:
        """Whether the file in this folder of `hive/files` is public, or its URL is known to this owner."""
        with open_folder(self._hive, RESTRICTED, _URLS, key, missing_ok=True) as notes:
            return notes is None or _was_written(notes, owner, float("inf"))


def _places_in(notes: int, repo: str, commit: str) -> tuple[ProbeFile, ...]:
    found: list[ProbeFile] = []
    names = sorted(name for name in os.listdir(notes) if name.endswith(_PLACE))[:MAX_NOTES]
    for name in names:
        try:
            found.append(msgspec.json.decode(read_file(notes, name, MAX_NOTE_BYTES) or b"", type=ProbeFile))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            found.append(ProbeFile(repo, commit, ""))
    return tuple(found) or (ProbeFile(repo, commit, ""),)


def _write_owner(notes: int, owner: str) -> None:
    write_file(notes, _name(owner) + _OWNER, owner.encode(), durable=False)


def _was_written(notes: int, owner: str, within_s: float) -> bool:
    try:
        written_s = os.stat(_name(owner) + _OWNER, dir_fd=notes, follow_symlinks=False).st_mtime
    except FileNotFoundError:
        return False
    return bool(owner) and -YES_TTL_S <= time.time() - written_s <= within_s


def _name(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:_NAME_CHARS]
