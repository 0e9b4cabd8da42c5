"""The stand-in as a process, for benchmarks and for trying things by hand.

Its first line on standard output is JSON with the addresses: {"endpoint": "http://...", "cdn": "http://...", "pid": 1}.
It runs until SIGTERM or SIGINT.
"""

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from tests.hub.access import DEFAULT_TOKEN
from tests.hub.content import SyntheticFile
from tests.hub.repo import Repo
from tests.hub.server import HubServer

#: Most files taken from one folder: more is a folder given by mistake.
MAX_FILES = 100_000

T = TypeVar("T")


def main(arguments: list[str] | None = None) -> int:
    """Serve what the command line names; returns the exit status."""
    options = _parser().parse_args(arguments)
    # Blocked before the first thread starts, so that only sigwait below gets them.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    server = HubServer(
        *_repositories(options),
        token=options.token,
        port=options.port,
        cdn_port=options.cdn_port,
        limit_rate_bytes_per_s=options.limit_rate,
        host=options.host,
        name=options.name,
    )
    for folder in options.plain:
        for name, path in _files_of(folder):
            server.plain(f"/files/{name}", path)
    with server:
        print(json.dumps({"endpoint": server.endpoint, "cdn": server.cdn_endpoint, "pid": os.getpid()}), flush=True)
        signal.sigwait({signal.SIGTERM, signal.SIGINT})
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.hub", description="A stand-in of the Hugging Face Hub.")
    parser.add_argument("--port", type=int, default=0, help="port of the Hub (0: any free one)")
    parser.add_argument("--cdn-port", type=int, default=0, help="port of the CDN (0: any free one)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on: 0.0.0.0 in a container")
    parser.add_argument("--name", help="name under which others reach it, for the addresses that it tells")
    parser.add_argument("--repo", type=_named(Path), action="append", default=[], metavar="ORG/NAME=DIR")
    parser.add_argument(
        "--synthetic",
        type=_named(int),
        action="append",
        default=[],
        metavar="ORG/NAME/FILE=BYTES",
        help="a made-up file of that size, which costs no memory",
    )
    parser.add_argument("--gated", action="append", default=[], metavar="ORG/NAME")
    parser.add_argument("--xet", action="append", default=[], metavar="ORG/NAME")
    parser.add_argument("--token", default=DEFAULT_TOKEN, help="the token that opens everything")
    parser.add_argument("--plain", type=Path, action="append", default=[], metavar="DIR", help="serve below /files/")
    parser.add_argument("--limit-rate", type=float, metavar="BYTES_PER_S", help="of each connection")
    return parser


def _named(kind: Callable[[str], T]) -> Callable[[str], tuple[str, T]]:
    def parse(text: str) -> tuple[str, T]:
        name, _, value = text.partition("=")
        if not name or not value:
            raise argparse.ArgumentTypeError("NAME=VALUE is wanted")
        return name, kind(value)

    return parse


def _repositories(options: argparse.Namespace) -> Iterable[Repo]:
    files: dict[str, dict[str, Path | SyntheticFile]] = {}
    for name, folder in options.repo:
        files.setdefault(name, {}).update(_files_of(folder))
    for place, size in options.synthetic:
        parts = 3 if place.startswith(("datasets/", "spaces/")) else 2
        *names, path = place.split("/", parts)
        files.setdefault("/".join(names), {})[path] = SyntheticFile(size, seed=len(files))
    for name, contents in files.items():
        repo = Repo(name, gated="manual" if name in options.gated else False, xet=name in options.xet)
        repo.commit(dict(contents))
        yield repo


def _files_of(folder: Path) -> list[tuple[str, Path]]:
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    if len(found) > MAX_FILES:
        raise SystemExit(f"{folder} has more than {MAX_FILES} files")
    return [(path.relative_to(folder).as_posix(), path) for path in found]


if __name__ == "__main__":
    sys.exit(main())
