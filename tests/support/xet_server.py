"""The Xet store's API over HTTP, in front of a store that hf_xet itself has filled: hf_xet reads from it unmodified.

Two origins, as with the real one. The first answers `GET /v2/reconstructions/<file hash>` (and v1, to clients that are
told there is no v2) to whoever shows a token that the Hub has handed out: of which chunks of which blocks the asked-for
range consists, and a signed URL for each block. The second serves the blocks' bytes, by range, without a token, to
whoever holds such a URL. Bytes lie in a block file as they go over the wire, so nothing is packed or unpacked here.
"""

from __future__ import annotations

import base64
import re
import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.hub.content import PathFile
from tests.hub.hits import HitLog
from tests.hub.links import Signer, Verdict
from tests.hub.messages import Reply, Request, json_reply, text_reply
from tests.hub.origin import App, Origin
from tests.hub.ranges import Unsatisfiable, requested_span
from tests.hub.resources import Resource, answer
from tests.hub.rules import FaultBook
from tests.support.xet_format import Block, Segment, read_files

#: Seconds for which a block's URL is good.
LINK_TTL_S = 3_600

_RECONSTRUCTION = re.compile(r"/v(?P<version>[12])/reconstructions/(?P<file>[0-9a-f]{64})")
_BLOCK = re.compile(r"/blocks/(?P<block>[0-9a-f]{64})")


@dataclass(frozen=True)
class Term:
    """A stretch of a file: chunks [first, last) of a block, `n_bytes` of content."""

    block: Block
    first: int
    last: int
    n_bytes: int

    @property
    def described(self) -> dict[str, Any]:
        """As the API has it."""
        return {
            "hash": self.block.hash,
            "unpacked_length": self.n_bytes,
            "range": {"start": self.first, "end": self.last},
        }


class XetServer:
    """A store over HTTP, with faults and a log of what arrives: the API is origin "hub", the blocks are origin "cdn".

    Use it as a context manager. The folder is read once, at the start.
    """

    def __init__(self, folder: Path, *, version: int = 2) -> None:
        """`version`: of the API; a server of version 1 does not know version 2."""
        self.log = HitLog()
        self.faults = FaultBook()
        #: Tokens that are no longer believed, whatever they say.
        self.refused: set[str] = set()
        self.version = version
        self._files, self._blocks = read_files(folder)
        self._signer = Signer()
        self._api = Origin("hub", self._with_faults(self._answer_api), lambda _: "", self.log)
        self._store = Origin("cdn", self._with_faults(self._answer_block), lambda _: "", self.log)

    @property
    def endpoint(self) -> str:
        """The address that the Hub hands out with a token."""
        return self._api.url

    def tokens_seen(self) -> list[str]:
        """The tokens that came with requests to the API, each once, in order."""
        seen = (hit.headers.get("authorization", "").removeprefix("Bearer ") for hit in self.log.hits(origin="hub"))
        return list(dict.fromkeys(seen))

    def bytes_of_blocks(self) -> int:
        """Bytes of blocks that were sent."""
        return self.log.bytes_sent("/blocks/*", origin="cdn")

    def close_connections(self) -> None:
        """Cut what is under way."""
        self._api.close_connections()
        self._store.close_connections()

    def __enter__(self) -> Self:
        """Begin to answer."""
        self._api.start()
        self._store.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Close both origins."""
        self._api.stop()
        self._store.stop()

    def _with_faults(self, app: App) -> App:
        def answer_unless_faulty(request: Request) -> Reply:
            return self.faults.shape(request, self.faults.before(request) or app(request))

        return answer_unless_faulty

    # The API.

    def _answer_api(self, request: Request) -> Reply:
        match = _RECONSTRUCTION.fullmatch(request.path)
        if match is None or int(match["version"]) != self.version:
            return text_reply(HTTPStatus.NOT_FOUND, "no such route")
        if not self._believed(request.headers.get("authorization", "")):
            return text_reply(HTTPStatus.UNAUTHORIZED, "the token is not valid")
        segments = self._files.get(match["file"])
        if segments is None:
            return text_reply(HTTPStatus.NOT_FOUND, "no such file")
        size = sum(segment.n_bytes for segment in segments)
        try:
            span = requested_span(request.headers.get("range"), size)
        except Unsatisfiable:
            return text_reply(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, "")
        start, end = (span.start, span.end) if span else (0, size)
        offset, terms = _terms(segments, self._blocks, start, end)
        answered = {"offset_into_first_range": offset, "terms": [term.described for term in terms]}
        return json_reply(answered | (self._urls_v2(terms) if self.version == 2 else self._urls_v1(terms)))

    def _believed(self, header: str) -> bool:
        """Whether the token is one of the stand-in Hub's, and has not ended."""
        token = header.removeprefix("Bearer ")
        if token in self.refused or not token:
            return False
        _, _, expires = base64.urlsafe_b64decode(token).decode().split()
        return int(expires) > time.time()

    def _urls_v2(self, terms: list[Term]) -> dict[str, Any]:
        """One URL for a block, for all of its ranges."""
        xorbs = {}
        for block, ranges in _ranges(terms):
            described = [{"chunks": _span(*chunks), "bytes": _span(*block.place(*chunks))} for chunks in ranges]
            xorbs[block.hash] = [{"url": self._url(block, ranges), "ranges": described}]
        return {"xorbs": xorbs}

    def _urls_v1(self, terms: list[Term]) -> dict[str, Any]:
        """One URL for each range of a block."""
        fetch_info: dict[str, list[dict[str, Any]]] = {}
        for block, ranges in _ranges(terms):
            for chunks in ranges:
                place = {"range": _span(*chunks), "url_range": _span(*block.place(*chunks))}
                fetch_info.setdefault(block.hash, []).append({**place, "url": self._url(block, [chunks])})
        return {"fetch_info": fetch_info}

    def _url(self, block: Block, ranges: list[tuple[int, int]]) -> str:
        """A URL that is good for these ranges only. They are signed where a link of the CDN has its disposition."""
        places = ",".join("{}-{}".format(*block.place(*chunks)) for chunks in ranges)
        return self._store.url + self._signer.sign(f"/blocks/{block.hash}", places, LINK_TTL_S)

    # The blocks.

    def _answer_block(self, request: Request) -> Reply:
        match = _BLOCK.fullmatch(request.path)
        block = self._blocks.get(match["block"]) if match else None
        verdict = self._signer.check(request)
        asked = request.headers.get("range", "").removeprefix("bytes=")
        if block is None or not block.path.exists():
            return text_reply(HTTPStatus.NOT_FOUND, "no such block")
        if verdict is not Verdict.GOOD or asked not in request.first("response-content-disposition").split(","):
            return text_reply(HTTPStatus.FORBIDDEN, "not signed for this")
        if "authorization" in request.headers:
            return text_reply(HTTPStatus.BAD_REQUEST, "the store's token is none of the CDN's business")
        return answer(request, self.faults.source(request, Resource(PathFile(block.path))))


def _terms(segments: list[Segment], blocks: dict[str, Block], start: int, end: int) -> tuple[int, list[Term]]:
    """Whole chunks that cover bytes [start, end) of a file, and how far into the first of them `start` is."""
    terms: list[Term] = []
    offset = at = 0
    for segment in segments:
        block = blocks[segment.block]
        base = block.contents[segment.first] - at
        if at < end and at + segment.n_bytes > start:
            # Never less than the segment's first chunk, never more than its last.
            first = max(segment.first, bisect_right(block.contents, base + start) - 1)
            last = min(segment.last, bisect_left(block.contents, base + end))
            terms.append(Term(block, first, last, block.contents[last] - block.contents[first]))
            if len(terms) == 1:
                offset = base + start - block.contents[first]
        at += segment.n_bytes
    return offset, terms


def _ranges(terms: list[Term]) -> Iterator[tuple[Block, list[tuple[int, int]]]]:
    """For each block the ranges of chunks that the terms are in, those that touch as one."""
    by_block: dict[str, list[Term]] = {}
    for term in terms:
        by_block.setdefault(term.block.hash, []).append(term)
    for found in by_block.values():
        spans = sorted((term.first, term.last) for term in found)
        joined = [spans[0]]
        for first, last in spans[1:]:
            if first <= joined[-1][1]:
                joined[-1] = (joined[-1][0], max(joined[-1][1], last))
            else:
                joined.append((first, last))
        assert all(a[1] < b[0] for a, b in pairwise(joined))
        yield found[0].block, joined


def _span(start: int, end: int) -> dict[str, int]:
    return {"start": start, "end": end}
