"""What hive is installed with is locked by digest, fits pyproject.toml, and is compared with advisories."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import tomllib
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
LOCKS = ROOT / "requirements"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
#: What each lock is made from.
RUN = PROJECT["project"]["dependencies"]
ASKED = {"run": RUN, "serve": RUN + PROJECT["project"]["optional-dependencies"]["serve"]} | {
    name: PROJECT["dependency-groups"][name] for name in ("build", "dev", "model", "lock", "pip", "open-webui", "moto")
}
SYSTEMS = [
    {"sys_platform": platform, "platform_system": system, "platform_machine": machine, "os_name": "posix"}
    for platform, system, machine in [
        ("linux", "Linux", "x86_64"),
        ("linux", "Linux", "aarch64"),
        ("darwin", "Darwin", "x86_64"),
        ("darwin", "Darwin", "arm64"),
    ]
]
ENVIRONMENTS: list[dict[str, str]] = [
    {**system, "python_version": minor, "python_full_version": f"{minor}.9", "implementation_name": "cpython"}
    | {"platform_python_implementation": "CPython", "extra": ""}
    for system in SYSTEMS
    for minor in ("3.11", "3.12", "3.13")
]
IDS = ["{sys_platform}-{platform_machine}-{python_version}".format(**environment) for environment in ENVIRONMENTS]
#: Seconds for a script.
SCRIPT_TIMEOUT_S = 120


def rows(name: str) -> list[tuple[Requirement, list[str]]]:
    """The pins of a lock with their digests."""
    found: list[tuple[Requirement, list[str]]] = []
    for line in (LOCKS / f"{name}.txt").read_text().splitlines():
        if line.startswith("    --hash="):
            found[-1][1].append(line.strip().rstrip(" \\").removeprefix("--hash="))
        elif line and not line.startswith("#"):
            found.append((Requirement(line.rstrip(" \\")), []))
    return found


def locked(name: str, environment: dict[str, str]) -> dict[str, Version]:
    """What a lock installs on a system."""
    found: dict[str, Version] = {}
    for requirement, _ in rows(name):
        if requirement.marker is None or requirement.marker.evaluate(environment):
            (pin,) = requirement.specifier
            assert pin.operator == "=="
            assert canonicalize_name(requirement.name) not in found, f"{requirement.name} twice"
            found[canonicalize_name(requirement.name)] = Version(pin.version)
    return found


@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=IDS)
@pytest.mark.parametrize("name", ASKED)
def test_the_lock_has_what_the_project_asks_for(name: str, environment: dict[str, str]) -> None:
    have = locked(name, environment)
    for text in ASKED[name]:
        asked = Requirement(text)
        if asked.marker is None or asked.marker.evaluate(environment):
            assert have[canonicalize_name(asked.name)] in asked.specifier, text


@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=IDS)
def test_the_locks_agree(environment: dict[str, str]) -> None:
    together: dict[str, Version] = {}
    for name in ASKED.keys() - {"moto"}:  # which is installed apart, for that it does not agree
        for package, version in locked(name, environment).items():
            assert together.setdefault(package, version) == version, package


def test_what_is_installed_here_is_what_is_locked_and_needs_nothing_that_is_not() -> None:
    """Read from the packages themselves, so that a pin which somebody took out by hand is missed."""
    here = {name: str(value) for name, value in default_environment().items()} | {"extra": ""}
    have: dict[str, Version] = {}
    for name in ("run", "build", "dev"):
        have |= locked(name, here)
    extras: dict[str, set[str]] = {}
    for text in [*ASKED["run"], *ASKED["dev"]]:
        extras.setdefault(canonicalize_name(Requirement(text).name), set()).update(Requirement(text).extras)
    for package, version in have.items():
        assert Version(metadata.version(package)) == version, f"{package}: run scripts/install --dev"
        for text in metadata.requires(package) or ():
            needed = Requirement(text)
            wanted = ["", *extras.get(package, ())]
            if needed.marker is None or any(needed.marker.evaluate({**here, "extra": extra}) for extra in wanted):
                assert have[canonicalize_name(needed.name)] in needed.specifier, f"{package} needs {text}"


def test_what_moto_needs_is_beside_it_or_here() -> None:
    here = {name: str(value) for name, value in default_environment().items()} | {"extra": ""}
    have = locked("run", here) | locked("dev", here) | locked("moto", here)
    for package in locked("moto", here):
        found = list(metadata.distributions(name=package, path=[str(Path(sys.prefix) / "moto")]))
        if not found:
            assert os.environ.get("CI") != "true", f"{package} is missing: scripts/install --moto"
            pytest.skip("moto is not here: scripts/install --moto")
        assert Version(found[0].version) == have[package]
        for needed in map(Requirement, found[0].requires or ()):
            if needed.marker is None or needed.marker.evaluate(here):
                assert have[canonicalize_name(needed.name)] in needed.specifier, f"{package} needs {needed}"


@pytest.mark.parametrize("name", ASKED)
def test_every_pin_has_digests_and_no_file_names_an_index(name: str) -> None:
    assert all(digests for _, digests in rows(name))
    assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", digest) for _, digests in rows(name) for digest in digests)
    assert not re.search(r"://|--(extra-)?index|--find-links|--trusted", (LOCKS / f"{name}.txt").read_text())


def test_the_build_needs_what_is_locked_for_it() -> None:
    assert set(PROJECT["build-system"]["requires"]) <= set(ASKED["build"])


@pytest.mark.parametrize("file", ["Dockerfile", "scripts/install", "scripts/lock"])
def test_nothing_is_fetched_without_digests(file: str) -> None:
    text = (ROOT / file).read_text().replace("\\\n", " ")
    calls = [
        line
        for line in re.split(r"\n|&&", text)
        if re.search(r"\bpip\b.* (install|wheel|download) |^pip_install ", line)
    ]
    assert calls
    for call in calls:
        if '"$@"' not in call:
            assert "--no-index" in call or ("--require-hashes" in call and "--only-binary :all:" in call), call


def wheel(folder: Path, content: str) -> str:
    """Make a package `tiny` 1; its digest."""
    path = folder / "tiny-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny.py", content)
        archive.writestr("tiny-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1\n")
        archive.writestr("tiny-1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("tiny-1.dist-info/RECORD", "")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_install_refuses_a_file_whose_digest_is_another(tmp_path: Path) -> None:
    project, index = tmp_path / "project", tmp_path / "index"
    for folder in (project / "scripts", project / "requirements", index):
        folder.mkdir(parents=True)
    shutil.copy(ROOT / "scripts" / "install", project / "scripts" / "install")
    (project / "pyproject.toml").write_text("")
    for name in ("build", "pip"):
        (project / "requirements" / f"{name}.txt").write_text("")
    environment = {**os.environ, "HIVE_PYTHON": sys.executable, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(index)}

    def install(digest: str) -> tuple[str, bool]:
        (project / "requirements" / "run.txt").write_text(f"tiny==1 --hash=sha256:{digest}\n")
        done = subprocess.run(
            [project / "scripts" / "install"], env=environment, capture_output=True, text=True, timeout=SCRIPT_TIMEOUT_S
        )
        there = subprocess.run([project / ".venv/bin/python", "-c", "import tiny"], capture_output=True, timeout=60)
        return done.stderr, there.returncode == 0

    good = wheel(index, "x = 1\n")
    wheel(index, "x = 2\n")
    complaint, is_there = install(good)
    assert "DO NOT MATCH THE HASHES" in complaint
    assert not is_there
    assert install(wheel(index, "x = 1\n"))[1]


class Service(ThreadingHTTPServer):
    """A stand-in of the OSV service: knows holes by name and version."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.holes: dict[tuple[str, str], str] = {}
        self.asked: list[tuple[str, str]] = []
        self.body: bytes | None = None
        self.status = 200
        self.silent = threading.Event()
        self.silent.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answer(BaseHTTPRequestHandler):
    server: Service

    def do_POST(self) -> None:
        assert self.path == "/v1/querybatch"
        queries = json.loads(self.rfile.read(int(self.headers["content-length"])))["queries"]
        assert {query["package"]["ecosystem"] for query in queries} == {"PyPI"}
        asked = [(query["package"]["name"], query["version"]) for query in queries]
        self.server.asked = asked
        self.server.silent.wait(60)
        found = [{"vulns": [{"id": self.server.holes[pin]}]} if pin in self.server.holes else {} for pin in asked]
        body = self.server.body or json.dumps({"results": found}).encode()
        self.send_response(self.server.status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def service() -> Iterator[Service]:
    server = Service()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.silent.set()
    server.shutdown()
    server.server_close()


def audit(*arguments: str, **environment: str) -> tuple[int, str]:
    """The exit code of scripts/audit, and all that it says."""
    quiet = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    done = subprocess.run(
        [ROOT / "scripts" / "audit", *arguments],
        env=quiet | environment,
        capture_output=True,
        text=True,
        timeout=SCRIPT_TIMEOUT_S,
    )
    return done.returncode, done.stdout + done.stderr


def test_the_audit_asks_for_every_locked_version_and_says_that_nothing_was_found(service: Service) -> None:
    code, said = audit(HIVE_AUDIT_URL=service.url)
    pinned = {(canonicalize_name(row.name), str(row.specifier)[2:]) for name in ASKED for row, _ in rows(name)}
    assert set(service.asked) == pinned
    assert (code, "no known hole" in said) == (0, True)


def test_an_advisory_fails_the_audit_by_name_version_and_id(service: Service) -> None:
    audit(HIVE_AUDIT_URL=service.url)
    service.holes[service.asked[3]] = "PYSEC-2099-1"
    name, version = service.asked[3]
    code, said = audit(HIVE_AUDIT_URL=service.url)
    assert code == 1
    assert f"{name} {version} has a known hole: PYSEC-2099-1" in said


@pytest.mark.parametrize("body", [b"<html>", b"{}", b'{"results": []}', b"[1]", b'{"results": ' + b"[" * 2000])
def test_an_answer_of_something_else_is_no_data(service: Service, body: bytes) -> None:
    service.body = body
    code, said = audit(HIVE_AUDIT_URL=service.url)
    assert (code, "not checked: no data" in said) == (0, True)
    assert audit("--require", HIVE_AUDIT_URL=service.url)[0] == 2


def test_without_a_service_the_audit_says_so_and_passes_within_seconds(service: Service) -> None:
    begun = time.monotonic()
    code, said = audit(HIVE_AUDIT_URL="http://127.0.0.1:9")
    assert (code, "not checked: no data" in said) == (0, True)
    service.silent.clear()
    assert audit(HIVE_AUDIT_URL=service.url)[0] == 0
    assert time.monotonic() - begun < 60


@pytest.mark.parametrize(
    ("affected", "is_hit"),
    [
        ({"ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "2.0"}]}]}, True),
        ({"ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.5"}]}]}, False),
        ({"ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "1.5.1"}, {"fixed": "2.0"}]}]}, False),
        ({"ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"last_affected": "1.5"}]}]}, True),
        ({"ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"last_affected": "1.4"}]}]}, False),
        ({"versions": ["1.4", "1.5"]}, True),
        ({"versions": ["1.4"], "ranges": [{"type": "GIT", "events": [{"introduced": "0"}]}]}, False),
    ],
)
def test_a_file_of_advisories_is_read_by_versions_and_ranges(
    tmp_path: Path, affected: dict[str, Any], is_hit: bool
) -> None:
    locks, file = tmp_path / "locks", tmp_path / "osv" / "one.json"
    locks.mkdir()
    file.parent.mkdir()
    (locks / "run.txt").write_text("some-thing==1.5 \\\n    --hash=sha256:00\nother==1\n")
    record = {"id": "X-1", "affected": [{"package": {"ecosystem": "PyPI", "name": "Some_Thing"}, **affected}]}
    file.write_text(json.dumps(record))
    for path in (file, file.parent):
        code, said = audit("--locks", str(locks), "--advisories", str(path))
        assert (code, "some-thing 1.5 has a known hole: X-1" in said) == (int(is_hit), is_hit)
    file.write_text(json.dumps([record | {"withdrawn": "2026-01-01T00:00:00Z"}]))
    assert audit("--locks", str(locks), "--advisories", str(file))[0] == 0


def test_the_checks_end_with_the_audit() -> None:
    assert (ROOT / "scripts" / "check").read_text().splitlines()[-1] == "scripts/audit"
