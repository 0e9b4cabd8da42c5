"""What a source answers: the files that a reference means, and how each is fetched and checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from hive.store.restricted import ProbeFile
from hive.wire.refs import ModelRef
from hive.wire.selection import RepoFile, Selection
from workers.transfer import Digest, Location, Source


class RetryLater(Exception):
    """The Hub asks to wait `seconds` before the next request: no failure, so it costs no attempt; all workers wait."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"The Hub asks to wait {seconds:.0f} s.")
        self.seconds = seconds


@dataclass(frozen=True)
class PlannedFile:
    """One file to fetch. `size` in bytes, None while only its server knows; `digest` None where nobody gave one.

    `etag` names its blob in the Hub's cache, None for a plain URL; `xet_hash` is what the Xet transport asks for.
    """

    path: str
    size: int | None
    digest: Digest | None
    etag: str | None
    source: Source
    xet_hash: str | None = None


def everywhere(place: ProbeFile) -> bool:
    """Yes: whoever runs the service is let in."""
    return True


def nowhere(place: ProbeFile) -> bool:
    """No: whoever asks somebody else than the Hub names a digest, which is no permission."""
    return False


@dataclass(frozen=True)
class Plan:
    """All files of a download. `commit` is what the revision stood for when it was asked, so nothing changes under way.

    `tree` is the whole listing of the commit, `primary` the path that a program opens (None: the snapshot's folder),
    `total_bytes` None while a server has not said it.
    """

    ref: ModelRef
    kind: Literal["hf", "url"]
    files: tuple[PlannedFile, ...]
    primary: str | None
    repo: str | None = None
    revision: str | None = None
    commit: str | None = None
    variant: str | None = None
    #: What its authors call the licence, where the Hub was asked and said so.
    license: str | None = None
    tree: tuple[RepoFile, ...] = ()
    #: What the file of a plain URL is to be called, where somebody said so.
    name: str | None = None
    #: Where tokens for the Xet store are handed out; None where there is none.
    xet_token: Location | None = None
    #: By which files the Hub is asked whether somebody may have this; nothing where it is public.
    places: tuple[ProbeFile, ...] = ()
    #: Whether the Hub lets this download have a restricted file of another repository; may take a moment.
    lets_in: Callable[[ProbeFile], bool] = everywhere

    @property
    def own_content(self) -> str:
        """Who alone may go on with what this download leaves half-way: those of the same restricted repository, or
        who knows the same URL; "" for everybody who wants the same content.
        """
        if self.ref.url is not None:
            return self.ref.url if urlsplit(self.ref.url).query else ""
        return self.repo or "" if self.places else ""

    @property
    def own_partial(self) -> str:
        """The same of its partial files, which nobody shares with a host that a stranger may have chosen either: that
        may send as slowly as it likes, or wrong bytes, under the digest of a file that others want.
        """
        strangers = (self.ref.url or self.repo or "") if self.ref.is_strangers else ""
        return self.own_content or strangers

    @property
    def total_bytes(self) -> int | None:
        """Bytes of all files, None where one is not known."""
        sizes = [file.size for file in self.files]
        return None if None in sizes else sum(size or 0 for size in sizes)


def plan_of_listing(
    ref: ModelRef,
    commit: str,
    tree: tuple[RepoFile, ...],
    selection: Selection,
    planned: Callable[[RepoFile], PlannedFile],
) -> Plan:
    """The plan for what was chosen of the files at a commit, each of which `planned` says how to fetch."""
    return Plan(
        ref=ref,
        kind="hf",
        repo=ref.repo,
        revision=ref.rev,
        commit=commit,
        variant=selection.variant,
        files=tuple(map(planned, selection.files)),
        tree=tree,
        primary=selection.primary,
    )


def planned_by_sha256(file: RepoFile, locate: Callable[[], Location]) -> PlannedFile:
    """A file of a listing that has a SHA-256 of each."""
    digest = Digest("sha256", file.sha256 or "")
    source = Source(locate=locate, size=file.size, digest=digest, name=file.path)
    return PlannedFile(file.path, file.size, digest, file.etag, source)
