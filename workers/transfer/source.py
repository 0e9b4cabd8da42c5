"""What is fetched, where it lies, and what came of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from hive.errors import HiveError

Algorithm = Literal["sha256", "git-sha1"]

#: Bytes of a file's beginning that `Source.inspect` gets; fewer of a shorter file.
INSPECTED_BYTES = 4096

_HEX = {"sha256": re.compile(r"[0-9a-f]{64}"), "git-sha1": re.compile(r"[0-9a-f]{40}")}


class Digest(NamedTuple):
    """The digest a file must have: `sha256` of its bytes, or `git-sha1` (sha1 over `blob <size>\\0` and the bytes)."""

    algorithm: Algorithm
    hex: str

    def checked(self) -> Digest:
        """This digest when it is well formed; raises ValueError when it is not."""
        if not _HEX[self.algorithm].fullmatch(self.hex):
            raise ValueError(f"not a {self.algorithm} digest")
        return self

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"


@dataclass(frozen=True)
class Location:
    """Where the bytes lie now. `headers` (Authorization among them) go to the origin of `url` and to no other."""

    url: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    #: Unix seconds after which the URL is refused; None when it does not expire or nobody knows.
    expires_at: float | None = None
    #: Whether `Source.explain` knows what is asked there though the URL is signed: by who made the source.
    signed_here: bool = False


class Served(NamedTuple):
    """How a server presented a file: the address that answered at last, and what its headers say."""

    url: str
    #: The media type, in lower case, without parameters; "" without one.
    media_type: str = ""
    #: Content-Disposition as it came; "" without one.
    disposition: str = ""
    #: The variable of the proxy that it came through; "" where it came straight.
    proxy: str = ""

    def __repr__(self) -> str:
        """Without the address, which may be signed."""
        return f"Served({self.media_type!r})"


class Refusal(NamedTuple):
    """A final answer of the server that a location names: the status, the Hub's X-Error-Code and X-Error-Message
    ("" without), and what stands in it, without what may be secret.
    """

    status: int
    code: str
    text: str
    body: str = ""


@dataclass(frozen=True)
class Source:
    """One file to fetch."""

    #: Gives the present location. Called at the start and whenever the location must be resolved anew, from any thread.
    locate: Callable[[], Location] = field(repr=False)
    #: Bytes; None when it is not known.
    size: int | None
    #: None: nobody vouches for the content, the result is unverified.
    digest: Digest | None
    #: For logs and events; never a secret.
    name: str
    #: Looks at the content while it comes, where no digest vouches for it: `inspect(served, head)` once with the first
    #: INSPECTED_BYTES, and `inspect_whole(served, file)` at the end with a descriptor. Each raises the HiveError that
    #: ends the download.
    inspect: Callable[[Served, bytes], None] | None = field(default=None, repr=False)
    inspect_whole: Callable[[Served, int], None] | None = field(default=None, repr=False)
    #: What a final refusal of the location's own server means, for whoever knows what was asked there. None: what the
    #: status says.
    explain: Callable[[Refusal], HiveError] | None = field(default=None, repr=False)
    #: Called before bytes that a journal vouched for are given up or overwritten: others may have read them.
    on_give_up: Callable[[], None] | None = field(default=None, repr=False)
    #: Whether `locate` may have to wait for somebody's answer.
    asks: bool = True


@dataclass(frozen=True)
class Fetched:
    """A complete file, on disk and synced."""

    path: Path
    size: int
    #: Of the algorithm asked for; sha256 where none was.
    digest_hex: str
    #: The validator the server gave, if any.
    etag: str | None
    bytes_refetched: int
    seconds: float
    #: False when no digest was given: the bytes are what the server sent, and nothing more is known.
    verified: bool
    #: Who sent them, where that was asked over HTTP.
    served: Served | None = None
