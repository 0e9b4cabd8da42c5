"""A repository of the stand-in: commits, branches, tags, pull requests, and what the Hub says of each file."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Literal

from tests.hub.content import AnyContent, Content, ListedFile, as_content
from tests.hub.gitobjects import blob_oid, commit_oid, lfs_pointer, tree_oid

#: Bytes from which the Hub wants a file in Git LFS, whatever it contains.
LFS_THRESHOLD_BYTES = 10 << 20

#: Endings that the Hub's default .gitattributes gives to Git LFS.
LFS_SUFFIXES = (
    *(".7z", ".bin", ".ckpt", ".gguf", ".gz", ".h5", ".msgpack", ".npy", ".npz", ".onnx", ".onnx_data", ".parquet"),
    *(".pb", ".pickle", ".pkl", ".pt", ".pth", ".safetensors", ".tar", ".tflite", ".wasm", ".zip", ".zst"),
    # Not in the default, and in that of every repository which holds importance matrices.
    *(".dat", ".imatrix", ".gguf_file"),
)

#: How much of a file git looks at for the NUL byte that makes it binary.
BINARY_PROBE_BYTES = 8_000

#: The date of a repository's first commit; later ones follow a minute apart, so that ids are the same in each run.
FIRST_COMMIT_AT = datetime(2025, 1, 1, tzinfo=UTC)

Gated = Literal[False, "auto", "manual"]


class Entry:
    """One file of a commit, with the ids that the Hub lists for it."""

    def __init__(self, path: str, content: Content, commit_title: str, at: datetime) -> None:
        self.path = path
        self.content = content
        self.size = content.size
        #: Title and date of the commit that last changed the file, for `expand`.
        self.commit_title, self.at = commit_title, at
        self.lfs = _is_lfs(path, content)

    @cached_property
    def sha256(self) -> str:
        """Digest of the content: the LFS object's id."""
        return self.content.sha256()

    @cached_property
    def pointer(self) -> bytes:
        """The LFS pointer that git holds."""
        return lfs_pointer(self.sha256, self.size)

    @cached_property
    def oid(self) -> str:
        """Git's id of what git holds: of the *pointer*, for an LFS file."""
        if self.lfs:
            return blob_oid(as_content(self.pointer))
        if isinstance(self.content, ListedFile):
            return self.sha256[:40]
        return blob_oid(self.content)


@dataclass(frozen=True)
class Folder:
    """One folder of a commit."""

    path: str
    oid: str


@dataclass(frozen=True)
class Commit:
    """A commit: the files it holds and what it is called."""

    sha: str
    title: str
    at: datetime
    files: Mapping[str, Entry]
    tree: "Tree" = field(repr=False)


class Repo:
    """A model's repository, or with `datasets/` or `spaces/` before its name one of those; see the module's docstring.

    `xet=True` lists Xet hashes and hands out Xet tokens, as the Hub does for every new repository.
    """

    def __init__(self, name: str, *, gated: Gated = False, private: bool = False, xet: bool = False) -> None:
        self.name = name
        self.gated: Gated = gated
        self.private = private
        self.xet = xet
        #: What its authors call its licence; None: they do not say.
        self.license: str | None = None
        self.commits: dict[str, Commit] = {}
        #: Full ref names ("refs/heads/main") to commit ids.
        self.refs: dict[str, str] = {}
        self._xet_hashes: dict[str, str] = {}

    def commit(
        self,
        files: Mapping[str, AnyContent | None],
        *,
        message: str = "Upload files",
        branch: str = "main",
        replace: bool = False,
    ) -> str:
        """Add a commit on a branch (or a full ref) and return its id of 40 hex digits.

        The commit changes the branch's files: None deletes one, `replace` forgets all others. A branch that does not
        exist starts from `main`.
        """
        ref = branch if branch.startswith("refs/") else f"refs/heads/{branch}"
        parent = self.commits.get(self.refs.get(ref) or self.refs.get("refs/heads/main", ""))
        at = FIRST_COMMIT_AT + timedelta(minutes=len(self.commits))
        merged = {} if replace or parent is None else dict(parent.files)
        for path, value in files.items():
            merged.pop(path, None)
            if value is not None:
                merged[path] = Entry(path, as_content(value), message, at)
        tree = Tree(merged)
        sha = commit_oid(tree.oid, parent.sha if parent else None, message, int(at.timestamp()))
        self.commits[sha] = Commit(sha, message, at, merged, tree)
        self.refs[ref] = sha
        return sha

    def branch(self, name: str, revision: str = "main") -> None:
        """Point a branch at a revision."""
        self.refs[f"refs/heads/{name}"] = self.at(revision).sha

    def tag(self, name: str, revision: str = "main") -> None:
        """Point a tag at a revision."""
        self.refs[f"refs/tags/{name}"] = self.at(revision).sha

    def pull_request(self, number: int, files: Mapping[str, AnyContent | None]) -> str:
        """Open `refs/pr/<number>` with one commit over `main`, and return its id."""
        return self.commit(files, message=f"Change of pull request {number}", branch=f"refs/pr/{number}")

    def find(self, revision: str) -> Commit | None:
        """The commit of a branch, tag, full ref or commit id; None when there is none."""
        for ref in (revision, f"refs/heads/{revision}", f"refs/tags/{revision}"):
            if ref in self.refs:
                return self.commits[self.refs[ref]]
        return self.commits.get(revision)

    def at(self, revision: str) -> Commit:
        """As `find`. Raises KeyError when there is none."""
        commit = self.find(revision)
        if commit is None:
            raise KeyError(f"{self.name} has no revision {revision!r}")
        return commit

    def file(self, path: str, revision: str = "main") -> Entry:
        """One file's entry. Raises KeyError when it is absent."""
        return self.at(revision).files[path]

    def set_xet_hash(self, path: str, xet_hash: str, revision: str = "main") -> None:
        """Give a file the hash (64 hex) under which a real Xet store holds it."""
        self._xet_hashes[self.file(path, revision).sha256] = xet_hash

    def xet_hash(self, entry: Entry) -> str | None:
        """The Xet hash of an LFS file: the one that was set, else a made-up one; None while Xet is off."""
        if not (self.xet and entry.lfs):
            return None
        return self._xet_hashes.get(entry.sha256) or hashlib.sha256(b"xet " + entry.sha256.encode()).hexdigest()


#: A folder's names from the root down; () is the root. Not a text, so that hostile names ("/a", "a//b") stay apart.
_Place = tuple[str, ...]


class Tree:
    """The folders that a flat set of paths implies."""

    def __init__(self, files: Mapping[str, Entry]) -> None:
        self._folders: dict[_Place, dict[str, Entry | None]] = {(): {}}
        self._oids: dict[_Place, str] = {}
        for path, entry in files.items():
            *folder, name = path.split("/")
            self._add_folder(tuple(folder))
            self._folders[tuple(folder)][name] = entry

    @cached_property
    def oid(self) -> str:
        """Git's id of the root folder."""
        return self._oid(())

    def has_folder(self, path: str) -> bool:
        """Whether any file lies below that folder."""
        return _place(path) in self._folders

    def folder(self, path: str) -> Folder:
        """A folder by its path. Raises KeyError."""
        return Folder(path, self._oid(_place(path)))

    def walk(self, folder: str = "", *, recursive: bool = False) -> Iterator[Entry | Folder]:
        """What the Hub lists below a folder: at each level the folders first, each followed by what is in it."""
        return self._walk(_place(folder), recursive)

    def _walk(self, place: _Place, recursive: bool) -> Iterator[Entry | Folder]:
        children = sorted(self._folders[place].items())
        for name, entry in children:
            if entry is None:
                below = (*place, name)
                yield Folder("/".join(below), self._oid(below))
                if recursive:
                    yield from self._walk(below, recursive)
        yield from (entry for _, entry in children if entry is not None)

    def _add_folder(self, place: _Place) -> None:
        if place not in self._folders:
            self._add_folder(place[:-1])
            self._folders[place] = {}
            self._folders[place[:-1]][place[-1]] = None

    def _oid(self, place: _Place) -> str:
        if place not in self._oids:
            self._oids[place] = tree_oid(
                (name, self._oid((*place, name)) if entry is None else entry.oid, entry is None)
                for name, entry in self._folders[place].items()
            )
        return self._oids[place]


def _place(path: str) -> _Place:
    return tuple(path.split("/")) if path else ()


def _is_lfs(path: str, content: Content) -> bool:
    if path.lower().endswith(LFS_SUFFIXES) or content.size > LFS_THRESHOLD_BYTES:
        return True
    if isinstance(content, ListedFile):
        return False
    return any(b"\0" in bytes(block) for block in content.blocks(0, min(content.size, BINARY_PROBE_BYTES)))
