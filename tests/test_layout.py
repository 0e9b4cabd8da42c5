"""Tests lie where a stranger looks for them: beside what they test, and what they share in one place."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ROOT = TESTS.parent
FILES = sorted(TESTS.rglob("*.py"))

#: Packages of tests that mirror no package of the code, and what they are.
OTHERS = {
    "browser": "the real browser",
    "chaos": "what kills",
    "charts": "the Helm chart",
    "flow": "whole journeys",
    "fuzz": "generated requests, names and frames",
    "hub": "the stand-in of the Hub, and its own tests",
    "proxies": "Caddy, nginx and HAProxy in front",
    "soak": "long runs",
    "stack": "the compose file on an engine",
    "support": "helpers",
    "upgrade": "what a release left behind",
}
#: Names of classes that stand twice in the code, and why.
TWICE = {"Digest"}  # the transfer engine can be lifted out, so it has its own
#: Lines of a module of the code, at most.
MAX_LINES = 500
#: Packages whose modules any test may import.
SHARED = ("tests.support", "tests.hub")


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported(path: Path) -> Iterator[str]:
    """Every module of `tests` that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("tests"))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tests"):
            assert node.module is not None
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                is_module = (ROOT / full.replace(".", "/")).with_suffix(".py").exists()
                yield full if is_module else node.module


def is_test(module: str) -> bool:
    last = module.rpartition(".")[2]
    return last.startswith("test_") or last == "conftest"


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_test_is_imported_and_packages_share_through_support_only(path: Path) -> None:
    own = ".".join(name_of(path).split(".")[:2])
    for module in imported(path):
        assert not is_test(module), f"{module} is a test: what it shares belongs to tests/support/"
        if not within(own, "tests.support"):
            assert any(within(module, package) for package in (*SHARED, own)), f"{module} is not shared: tests/support/"
        else:
            assert any(within(module, package) for package in SHARED), f"a helper that needs {module}"


PACKAGES = sorted({path.parent.relative_to(TESTS) for path in FILES if path.name.startswith("test_")} - {Path()})


@pytest.mark.parametrize("package", PACKAGES, ids=str)
def test_every_package_of_tests_mirrors_the_code(package: Path) -> None:
    if package.parts[0] in OTHERS:
        return
    code = ROOT / package if package.parts[0] == "workers" else ROOT / "hive" / package
    assert (code / "__init__.py").exists(), f"no package of the code is called {package}"


def test_every_package_of_the_code_has_its_tests() -> None:
    code = {path.parent.relative_to(ROOT / "hive") for path in (ROOT / "hive").glob("*/__init__.py")}
    code |= {path.parent.relative_to(ROOT) for path in (ROOT / "workers").glob("*/__init__.py")}
    assert {str(package) for package in code} <= {str(package) for package in PACKAGES}


def test_there_is_one_wait_for_and_one_reader_of_server_sent_events() -> None:
    """A loop around `sleep` belongs to tests/support/waiting.py, which has a deadline and says what it waited for."""
    functions = Counter(
        (node.name, name_of(path))
        for path in FILES
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and re.fullmatch(r"wait_for(_async)?|wait_until|until|eventually|poll|parse_(sse|frame|event)s?", node.name)
    )
    assert sorted(functions) == [
        ("parse_frame", "tests.support.sse"),
        ("parse_frames", "tests.support.sse"),
        ("wait_for", "tests.support.waiting"),
        ("wait_for_async", "tests.support.waiting"),
    ]


def test_every_package_is_in_the_readme() -> None:
    text = (TESTS / "README.md").read_text()
    for package in sorted({path.parent for path in FILES if path.parent != TESTS and path.parent.parent == TESTS}):
        assert f"`{package.name}/`" in text, package.name


def test_no_two_classes_have_one_name() -> None:
    """Who greps for a name finds what it is."""
    paths = [path for package in ("hive", "workers") for path in (ROOT / package).rglob("*.py")]
    nodes = [node for path in paths for node in ast.parse(path.read_text()).body]
    counts = Counter(node.name for node in nodes if isinstance(node, ast.ClassDef) and node.name[0] != "_")
    assert {name for name, count in counts.items() if count > 1} == TWICE


def test_no_module_is_longer_than_a_concept_needs() -> None:
    found = {
        path: len(path.read_text().splitlines()) for top in ("hive", "workers") for path in (ROOT / top).rglob("*.py")
    }
    assert {str(path.relative_to(ROOT)): lines for path, lines in found.items() if lines > MAX_LINES} == {}
