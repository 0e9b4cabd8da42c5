"""Object ids as git computes them, so that the stand-in's listings can be checked with `git hash-object`."""

import hashlib
from collections.abc import Iterable

from tests.hub.content import Content


def blob_oid(content: Content) -> str:
    """Git's id (40 hex) of a file's content."""
    digest = hashlib.sha1(b"blob %d\0" % content.size, usedforsecurity=False)
    for block in content.blocks(0, content.size):
        digest.update(block)
    return digest.hexdigest()


def lfs_pointer(sha256: str, size: int) -> bytes:
    """The small text that git stores in place of a Git LFS file."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def tree_oid(entries: Iterable[tuple[str, str, bool]]) -> str:
    """Git's id of a folder, given (name, oid, is_folder) of all that is in it."""
    # Git sorts a folder as if its name ended with a slash.
    ordered = sorted(entries, key=lambda entry: _encode(entry[0]) + (b"/" if entry[2] else b""))
    body = b"".join(
        (b"40000 " if is_folder else b"100644 ") + _encode(name) + b"\0" + bytes.fromhex(oid)
        for name, oid, is_folder in ordered
    )
    return _object_oid(b"tree", body)


def commit_oid(tree: str, parent: str | None, message: str, epoch_s: int) -> str:
    """Git's id of a commit by the stand-in's one author."""
    who = f"Stand-in <stand-in@example.invalid> {epoch_s} +0000"
    lines = [
        f"tree {tree}",
        *([f"parent {parent}"] if parent else []),
        f"author {who}",
        f"committer {who}",
        "",
        message,
    ]
    return _object_oid(b"commit", _encode("\n".join(lines)))


def _object_oid(kind: bytes, body: bytes) -> str:
    return hashlib.sha1(kind + b" %d\0" % len(body) + body, usedforsecurity=False).hexdigest()


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
