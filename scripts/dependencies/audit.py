"""Dependency audit: the locked versions of requirements/, compared with published advisories in the format of OSV.

Problem: a hole becomes known after a version was locked, and nobody reads every advisory. The easy way, a tool that
installs itself and asks, fails wherever there is no network, so that people switch it off. So the whole check is one
question to the OSV service (querybatch), or a look into a file or a folder of its records; where neither can be had it
says so plainly and passes, since no data is no finding. An advisory that is found is a failure.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import requests
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

#: Who is asked unless HIVE_AUDIT_URL names another.
SERVICE: Final = "https://api.osv.dev"
#: Seconds for the connection, for silence, and for all of it, names looked up too.
CONNECT_TIMEOUT_S, READ_TIMEOUT_S, DEADLINE_S = 3.0, 10.0, 15.0
#: Bytes of an answer, and of a file of advisories.
MAX_ANSWER_BYTES, MAX_FILE_BYTES = 4 << 20, 64 << 20
#: Files of a folder of advisories that are read.
MAX_FILES: Final = 100_000
#: Advisories that are known and do not count, by their id, with the reason; looked at again with the next release.
IGNORED: Final[dict[str, str]] = {}


class NoData(Exception):
    """Nobody can be asked; the text says why."""


class Pin(NamedTuple):
    """A package at the version that is installed."""

    name: str
    version: str


def read_pins(folder: Path) -> list[Pin]:
    """Every version of every lock in `folder`, for whatever system it is. Raises ValueError where a line is no pin."""
    pins = set()
    for path in sorted(folder.glob("*.txt")):
        for line in path.read_text().splitlines():
            if line[:1] in ("", "#", " "):
                continue
            requirement = Requirement(line.rstrip(" \\"))
            (specifier,) = requirement.specifier
            if specifier.operator != "==":
                raise ValueError(f"{path.name} does not pin {requirement.name}")
            pins.add(Pin(canonicalize_name(requirement.name), specifier.version))
    if not pins:
        raise ValueError(f"{folder} holds no locks")
    return sorted(pins)


def ask_service(url: str, pins: list[Pin]) -> dict[Pin, list[str]]:
    """The ids of the advisories that the service has for each pin.

    Raises:
        NoData: it cannot be reached in time, or answers with something else.
    """
    found: list[dict[Pin, list[str]]] = []
    reasons = [f"{url} did not answer within {DEADLINE_S:.0f} s"]

    def ask() -> None:
        try:
            found.append(_query(url, pins))
        except (requests.RequestException, NoData, OSError) as error:
            reasons[0] = f"{url} cannot be asked ({_brief(error)})"
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            reasons[0] = f"{url} answered with something else ({_brief(error)})"

    # In a thread, because nothing bounds how long a name is looked up.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(DEADLINE_S)
    if not found:
        raise NoData(reasons[0])
    return found[0]


def _query(url: str, pins: list[Pin]) -> dict[Pin, list[str]]:
    queries = [{"package": {"ecosystem": "PyPI", "name": pin.name}, "version": pin.version} for pin in pins]
    body = bytearray()
    timeout = (CONNECT_TIMEOUT_S, READ_TIMEOUT_S)
    with requests.post(
        f"{url.rstrip('/')}/v1/querybatch", json={"queries": queries}, timeout=timeout, stream=True
    ) as reply:
        if reply.status_code != 200:
            raise NoData(f"status {reply.status_code}")
        for chunk in reply.iter_content(65_536):
            body += chunk
            if len(body) > MAX_ANSWER_BYTES:
                raise NoData(f"more than {MAX_ANSWER_BYTES} bytes")
    results = json.loads(body)["results"]
    if len(results) != len(pins):
        raise ValueError(f"{len(results)} results for {len(pins)} questions")
    return {pin: [vuln["id"] for vuln in result.get("vulns") or ()] for pin, result in zip(pins, results, strict=True)}


def look_up(path: Path, pins: list[Pin]) -> dict[Pin, list[str]]:
    """The ids of the advisories of a file (a record, or a list of them) or a folder of such files for each pin.

    Raises:
        NoData: it cannot be read.
    """
    by_name: dict[str, list[Pin]] = {}
    for pin in pins:
        by_name.setdefault(pin.name, []).append(pin)
    found: dict[Pin, list[str]] = {pin: [] for pin in pins}
    try:
        for record in _records(path):
            if record.get("withdrawn"):
                continue
            for affected in record.get("affected", ()):
                package = affected.get("package", {})
                if package.get("ecosystem") != "PyPI":
                    continue
                for pin in by_name.get(canonicalize_name(package.get("name", "")), ()):
                    if record["id"] not in found[pin] and is_affected(affected, pin.version):
                        found[pin].append(record["id"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise NoData(f"{path} cannot be read ({_brief(error)})") from None
    return found


def _records(path: Path) -> Iterator[dict[str, Any]]:
    files = sorted(path.rglob("*.json"))[:MAX_FILES] if path.is_dir() else [path]
    if not files:
        raise ValueError("it holds no .json")
    for file in files:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise ValueError(f"{file.name} has more than {MAX_FILE_BYTES} bytes")
        content = json.loads(file.read_bytes())
        yield from content if isinstance(content, list) else [content]


def is_affected(affected: dict[str, Any], version: str) -> bool:
    """Whether a version is among those that an advisory lists, or in one of its ranges. Raises ValueError."""
    if version in affected.get("versions", ()):
        return True
    here = Version(version)
    for versions in affected.get("ranges", ()):
        if versions.get("type") != "ECOSYSTEM":
            continue
        is_in = False
        for event in sorted(versions.get("events", ()), key=_place_of):
            at = Version(next(iter(event.values())))
            if "introduced" in event and here >= at:
                is_in = True
            elif ("fixed" in event and here >= at) or ("last_affected" in event and here > at):
                is_in = False
        if is_in:
            return True
    return False


def _place_of(event: dict[str, str]) -> Version:
    return Version(next(iter(event.values())))


def _brief(error: BaseException) -> str:
    """What went wrong, in one line that holds no address."""
    return str(error)[:120] if isinstance(error, NoData | ValueError | KeyError) else type(error).__name__


def report(found: dict[Pin, list[str]], checked_against: str) -> int:
    """Print what was found. Gives the exit code: 1 where there is an advisory that nobody has judged."""
    bad = 0
    for pin, ids in found.items():
        for advisory in ids:
            if advisory in IGNORED:
                print(f"audit: {pin.name} {pin.version}: {advisory} does not count: {IGNORED[advisory]}")
                continue
            bad += 1
            print(
                f"error: {pin.name} {pin.version} has a known hole: {advisory} (https://osv.dev/{advisory})",
                file=sys.stderr,
            )
    if bad:
        print(
            "Raise the bound in pyproject.toml and run scripts/lock, or judge it in scripts/dependencies/audit.py.",
            file=sys.stderr,
        )
        return 1
    print(f"audit: {len(found)} packages of requirements/ compared with {checked_against}: no known hole")
    return 0


def main(arguments: Iterable[str] | None = None) -> int:
    """The command `scripts/audit`. Gives its exit code: 1 for a hole, 2 for no data with --require, else 0."""
    parser = argparse.ArgumentParser(
        prog="scripts/audit", description="Compare the locked packages with known advisories."
    )
    parser.add_argument("--advisories", type=Path, help="a file or folder of OSV records, in place of the service")
    parser.add_argument("--require", action="store_true", help="fail where nobody can be asked")
    parser.add_argument("--locks", type=Path, default=Path("requirements"), help="the folder of the locks")
    options = parser.parse_args(list(arguments) if arguments is not None else None)
    advisories = options.advisories or (Path(given) if (given := os.environ.get("HIVE_AUDIT_ADVISORIES")) else None)
    url = os.environ.get("HIVE_AUDIT_URL") or SERVICE
    pins = read_pins(options.locks)
    try:
        found = look_up(advisories, pins) if advisories else ask_service(url, pins)
    except NoData as error:
        print(f"audit: not checked: no data: {error}", file=sys.stderr)
        return 2 if options.require else 0
    return report(found, str(advisories or url))


if __name__ == "__main__":
    sys.exit(main())
