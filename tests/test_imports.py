"""The import rules that no contract of import-linter can say: that the contracts leave nothing out."""

from __future__ import annotations

import shutil
import subprocess
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
    missing = {module.rpartition(".")[2] for module in ours} - words
    assert missing == set(), "a new module needs its place in the tree of docs/architecture.md"


#: What a new module must not import, without anybody having named it in a contract.
WRONG = {
    "hive/wire/new.py": "hive.settings",
    "hive/store/new.py": "redis",
    "hive/streams/new.py": "hive.api.app",
    "hive/metrics/new.py": "starlette",
    "hive/client/new.py": "hive.settings",
    "hive/cli/new.py": "hive.downloads.tracker",
    "hive/downloads/new.py": "workers.download",
    "workers/fleet/new.py": "hive.streams.topic",
    "workers/sources/new.py": "rq",
    "workers/publish_new.py": "workers.transfer.engine",
    "workers/transfer/new.py": "hive.settings",
}


def test_the_contracts_refuse_what_they_should(tmp_path: Path) -> None:
    for package in sorted(OURS):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    for path, module in WRONG.items():
        # Inside a function: a lazy import is an import.
        (tmp_path / path).write_text(f"def later() -> None:\n    import {module}\n")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    said = " ".join(done.stdout.split())
    for path, module in WRONG.items():
        importer = path.removesuffix(".py").replace("/", ".")
        assert f"{importer} -> {module} (l.2)" in said or f"{importer} -> {module.partition('.')[0]} (l.2)" in said, (
            path
        )
