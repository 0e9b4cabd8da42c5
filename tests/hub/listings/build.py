"""From names and sizes to a repository."""

from collections.abc import Mapping

from tests.hub.content import AnyContent, ListedFile, SyntheticFile
from tests.hub.repo import Repo

#: Bytes of a gigabyte, the unit in which repositories state their sizes.
GB = 1_000_000_000

#: Bytes of a megabyte.
MB = 1_000_000

#: The first bytes of a GGUF file: magic and version 3.
GGUF_HEAD = b"GGUF\x03\x00\x00\x00"

#: The first bytes of a safetensors file: the length of its header, then an empty header.
SAFETENSORS_HEAD = b"\x02\x00\x00\x00\x00\x00\x00\x00{}"

_HEADS = {".gguf": GGUF_HEAD, ".safetensors": SAFETENSORS_HEAD}

GITATTRIBUTES = b"*.gguf filter=lfs diff=lfs merge=lfs -text\n*.safetensors filter=lfs diff=lfs merge=lfs -text\n"


def build(
    name: str, sizes: Mapping[str, int | float], texts: Mapping[str, bytes], *, served_bytes: int | None = None
) -> Repo:
    """A repository of one commit: large files by their size in bytes, small ones by their content."""
    files: dict[str, AnyContent | None] = {".gitattributes": GITATTRIBUTES, **texts}
    for seed, (path, size) in enumerate(sizes.items(), start=1):
        if served_bytes is None:
            files[path] = ListedFile(int(size), seed)
        else:
            head = next((head for suffix, head in _HEADS.items() if path.endswith(suffix)), b"")
            files[path] = SyntheticFile(served_bytes, seed, head=head)
    repo = Repo(name)
    repo.commit(files)
    return repo


def shards(pattern: str, total_bytes: float, count: int) -> dict[str, int]:
    """Names and sizes of a file that is split: `pattern` has {} where `00001-of-00003` belongs."""
    each = int(total_bytes / count)
    return {pattern.format(f"{number:05d}-of-{count:05d}"): each for number in range(1, count + 1)}
