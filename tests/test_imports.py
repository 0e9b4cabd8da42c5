"""The import rules that no contract of import-linter can say: that the contracts leave nothing out."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parent.parent
OURS = {"hive", "workers"}
#: What any package may import besides the standard library.
ANYWHERE = {"msgspec"}
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("hive", "workers", include_external_packages=True, cache_dir=None)


def test_every_library_has_a_contract_that_says_who_may_import_it(graph: grimp.ImportGraph) -> None:
    libraries = {module for module in graph.modules if module.partition(".")[0] not in OURS | sys.stdlib_module_names}
    said = {library for contract in CONTRACTS for library in contract.get("protected_modules", ())}
    assert libraries <= said | ANYWHERE


def test_the_wire_imports_the_standard_library_and_msgspec_only(graph: grimp.ImportGraph) -> None:
    wire = graph.find_descendants("hive.wire") | {"hive.wire"}
    imported = {found for module in wire for found in graph.find_modules_directly_imported_by(module)}
    assert {name.partition(".")[0] for name in imported - wire} <= sys.stdlib_module_names | {"msgspec"}


def test_every_package_of_the_code_is_in_the_map(graph: grimp.ImportGraph) -> None:
    """docs/architecture.md names each package and module of the top levels, and each module within them."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    tree = text.partition("## The tree")[2].partition("\n## ")[0]
    words = set(tree.replace("/", " ").replace(".py", " ").split())
    ours = {module for module in graph.modules if module.partition(".")[0] in OURS}
    assert {module.rpartition(".")[2] for module in ours} - words == set()
