"""`hive export` and `hive import`: a model goes through a tar to another store, whole or not at all."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from hive.settings import Settings
from hive.store.catalog import ModelCatalog
from hive.store.repo_cache import RepoCache
from tests.hub import HubServer, SyntheticFile
from tests.support.cli import COMMAND_TIMEOUT_S, Hive, Result, command
from tests.support.private_pull import ALONE, pull
from tests.support.store import everything_below, put, put_tree, put_url, sha256

#: Longer than the name of a member in a tar's own header has room for.
LONG = "folder/" * 20 + "vocabulary.json"
CARD = b"---\nlicense: apache-2.0\n---\n# A model"
FILES = {
    "model.safetensors": b"weights" * 1000,
    "config.json": b"{}",
    "copy.json": b"{}",
    "README.md": CARD,
    LONG: b"[]",
}

Other = Callable[..., Result]


@pytest.fixture
def other(env: dict[str, str], tmp_path: Path) -> Other:
    """Runs a command for another store, with the Hub far away."""

    def call(*args: str, stdin: bytes | None = None) -> Result:
        there = env | {"HIVE_STORE": str(tmp_path / "other"), "HF_HUB_OFFLINE": "1", "HIVE_HOST": "127.0.0.1:1"}
        done = subprocess.run(
            [*ALONE, *args], env=there, input=stdin, capture_output=True, timeout=COMMAND_TIMEOUT_S, check=False
        )
        return Result(done.returncode, done.stdout.decode(), done.stderr.decode())

    return call


@pytest.fixture
def archive(settings: Settings, hive: Hive, tmp_path: Path) -> Path:
    put(settings, "org/name", FILES)
    put_tree(settings, "org/name", FILES)
    result = hive("export", "org/name", "-o", str(tmp_path / "x.tar"), "-q")
    assert result.code == 0, result.err
    return tmp_path / "x.tar"


@pytest.fixture
def there(settings: Settings, tmp_path: Path) -> Settings:
    return Settings.from_env({"HIVE_STORE": str(tmp_path / "other"), "HIVE_HOME": str(settings.home_dir)})


def rewritten(archive: Path, change: Callable[[list[tuple[tarfile.TarInfo, bytes]]], None]) -> bytes:
    """The archive with other members."""
    with tarfile.open(archive) as tar:
        members = [(info, tar.extractfile(info).read()) for info in tar]  # type: ignore[union-attr]
    change(members)
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for info, data in members:
            info.size = len(data)
            info.pax_headers = {}
            tar.addfile(info, io.BytesIO(data))
    return made.getvalue()


def manifest_with(**changes: object) -> Callable[[list[tuple[tarfile.TarInfo, bytes]]], None]:
    def change(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        info, data = members[0]
        members[0] = info, json.dumps(json.loads(data) | changes).encode()

    return change


def test_what_is_imported_is_what_a_download_would_have_left(
    archive: Path, other: Other, settings: Settings, there: Settings
) -> None:
    result = other("import", str(archive))
    assert result.code == 0, result.err
    [here], [imported] = ModelCatalog(settings).list(), ModelCatalog(there).list()
    assert (imported.id, imported.refs, imported.revision) == (here.id, ("main",), here.revision)
    assert result.out.strip() == imported.path
    assert [file.path for file in imported.files] == sorted(FILES)
    assert all((Path(imported.path) / path).read_bytes() == data for path, data in FILES.items())
    with RepoCache(there.hub_dir, "models--org--name") as cache:
        assert cache.tree(here.revision or "") == ModelCatalog(settings).tree("org/name", here.revision or "")
    assert not list((there.hive_dir / "partial").iterdir())
    assert not list((there.hive_dir / "downloads").rglob("*.json"))
    verified = other("catalog", "verify", "org/name")
    assert verified.code == 0, verified.err
    assert other("pull", "-q", "org/name").out.strip() == imported.path
    again = other("import", str(archive))
    assert (again.code, again.out) == (0, result.out)
    assert "already on disk" in again.err


def test_the_manifest_comes_first_and_any_tar_unpacks_the_rest(archive: Path, hive: Hive, tmp_path: Path) -> None:
    with tarfile.open(archive) as tar:
        names = tar.getnames()
        manifest = json.load(tar.extractfile("manifest.json"))  # type: ignore[arg-type]
        tar.extractall(tmp_path / "plain", filter="data")
    assert names == ["manifest.json", *(f"files/{path}" for path in sorted(FILES))]
    assert (tmp_path / "plain" / "files" / LONG).read_bytes() == b"[]"
    assert manifest["hive_archive"] == 1
    assert manifest["repo"] == "org/name"
    assert manifest["license"] == "apache-2.0"
    assert {"path": "config.json", "size": 2, "sha256": sha256(b"{}"), "etag": sha256(b"{}")} in manifest["files"]
    assert hive("export", "org/name", "-o", str(tmp_path / "y.tar")).out.strip() == str(tmp_path / "y.tar")
    assert (tmp_path / "y.tar").read_bytes() == archive.read_bytes()


def test_a_variant_with_a_file_named_by_gits_digest_goes_through_a_pipe(
    env: dict[str, str], hub: HubServer, other: Other, there: Settings
) -> None:
    env |= {"HF_ENDPOINT": hub.endpoint, "HIVE_HOST": "127.0.0.1:1"}
    hub.create(
        "org/two",
        {
            "m-Q8_0.gguf": SyntheticFile(5000, seed=9, head=b"GGUF"),
            "m-Q4_0.gguf": b"GGUF four",
            "mmproj-F16.gguf": b"GGUF",
            "README.md": b"hello",
        },
    )
    assert pull(env, "-q", "org/two", "--include", "*").code == 0
    made = subprocess.run(command("export", "org/two:Q8_0", "-o", "-"), env=env, capture_output=True, timeout=60)
    assert made.returncode == 0, made.stderr
    assert b"org/two:Q8_0: verifying  " in made.stderr
    assert b", verified\n" in made.stderr
    result = other("import", "-", stdin=made.stdout)
    assert result.code == 0, result.err
    assert result.out.strip().endswith("/m-Q8_0.gguf")
    assert [model.id for model in ModelCatalog(there).list()] == ["org/two:Q8_0"]
    snapshot = Path(result.out.strip()).parent
    assert sorted(path.name for path in snapshot.iterdir()) == ["README.md", "m-Q8_0.gguf", "mmproj-F16.gguf"]
    assert other("catalog", "verify").code == 0


def test_a_file_from_a_url_keeps_its_place_and_one_with_a_query_stays(
    settings: Settings, hive: Hive, other: Other, there: Settings, tmp_path: Path
) -> None:
    put_url(settings, "https://example.org/m.gguf", b"GGUF", name="m.gguf")
    put_url(settings, "https://example.org/s.gguf?key=secret", b"GGUF", name="s.gguf")
    path = str(tmp_path / "u.tar")
    assert hive("export", "https://example.org/m.gguf", "-o", path).code == 0
    assert other("import", path).code == 0
    assert [model.id for model in ModelCatalog(there).list()] == [ModelCatalog(settings).list()[1].id]
    refused = hive("export", "https://example.org/s.gguf?key=secret", "-o", path)
    assert refused.code == 1
    assert "had a query" in refused.err
    assert "secret" not in refused.err


def _twice(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    members.insert(2, members[1])


def _more(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    members.append((tarfile.TarInfo("files/more"), b""))


def _as(kind: bytes) -> Callable[[list[tuple[tarfile.TarInfo, bytes]]], None]:
    def change(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        members[1][0].type, members[1][0].linkname = kind, "/etc/passwd"

    return change


def _wrong_byte(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    info, data = members[-1]
    members[-1] = info, b"!" + data[1:]


def _manifest_path(path: str) -> Callable[[list[tuple[tarfile.TarInfo, bytes]]], None]:
    def change(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        file = json.loads(members[0][1])["files"][0]
        manifest_with(files=[file | {"path": path}], tree=[])(members)

    return change


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        (_twice, "INVALID_REQUEST", "is to come"),
        (_more, "INVALID_REQUEST", "more files than its manifest"),
        (_as(tarfile.SYMTYPE), "INVALID_REQUEST", "is no plain file"),
        (_as(tarfile.LNKTYPE), "INVALID_REQUEST", "is no plain file"),
        (_as(tarfile.CHRTYPE), "INVALID_REQUEST", "is no plain file"),
        (_as(tarfile.GNUTYPE_SPARSE), "INVALID_REQUEST", "is no plain file"),
        (_wrong_byte, "CHECKSUM_MISMATCH", "is not what its manifest says"),
        (_manifest_path("../../planted"), "INVALID_REQUEST", "is not allowed"),
        (_manifest_path("/planted"), "INVALID_REQUEST", "is not allowed"),
        (manifest_with(hive_archive=2), "INVALID_REQUEST", "a newer hive made it"),
        (manifest_with(hive_archive=0), "INVALID_REQUEST", "names no version"),
        (manifest_with(repo="../up"), "INVALID_MODEL_REF", "names no repository"),
        (manifest_with(commit="main"), "INVALID_REQUEST", "no commit of a repository"),
        (manifest_with(revision="../x"), "INVALID_REQUEST", "a revision that is none"),
        (lambda members: members.pop(0), "INVALID_REQUEST", "does not begin with a manifest"),
    ],
)
def test_what_is_not_as_it_should_be_is_refused_and_is_no_model(
    archive: Path,
    hive: Hive,
    there: Settings,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    change: Callable[[list[tuple[tarfile.TarInfo, bytes]]], None],
    code: str,
    said: str,
) -> None:
    bad = tmp_path / "bad.tar"
    bad.write_bytes(rewritten(archive, change))
    monkeypatch.setenv("HIVE_STORE", str(there.store_dir))
    result = hive("import", str(bad))
    assert (result.code, result.out) == (1, "")
    assert f"[{code}]" in result.err
    assert said in result.err
    assert_no_model(there)


def assert_no_model(there: Settings) -> None:
    """No model, no file under way, no request: at most blobs that came whole."""
    assert ModelCatalog(there).list() == []
    left = {path for path in everything_below(there.store_dir) if (there.store_dir / path).is_file()}
    assert not [path for path in left if "/partial/" in path or "/downloads/" in path or "/refs/" in path]


def test_one_that_is_cut_off_is_no_model_and_the_whole_one_goes_on_from_there(
    archive: Path, other: Other, there: Settings
) -> None:
    data = archive.read_bytes()
    for end in (100, 3000, data.index(b"weightsweights") + 900, len(data) - 1024):
        result = other("import", "-", stdin=data[:end])
        assert (result.code, "cut off" in result.err) == (1, True), (end, result.err)
        assert_no_model(there)
    blobs = {path for path in everything_below(there.hub_dir) if "/blobs/" in path}
    assert len(blobs) == len(set(FILES.values()))
    assert other("import", "-", stdin=data).code == 0
    assert len(ModelCatalog(there).list()) == 1


def test_what_is_compressed_is_said_to_be_and_headers_of_gigabytes_are_not_read(archive: Path, other: Other) -> None:
    packed = gzip.compress(archive.read_bytes(), 1)
    assert "it is compressed; unpack it" in other("import", "-", stdin=packed).err
    huge = tarfile.TarInfo("x")
    huge.type, huge.size = tarfile.XHDTYPE, 1 << 40
    result = other("import", "-", stdin=huge.tobuf(tarfile.GNU_FORMAT))
    assert result.code == 1
    assert "a header is too long" in result.err
    huge.name, huge.type = "manifest.json", tarfile.REGTYPE
    result = other("import", "-", stdin=huge.tobuf(tarfile.GNU_FORMAT))
    assert result.code == 1
    assert "does not begin with a manifest" in result.err


def test_too_little_room_is_said_before_anything_is_written(
    archive: Path, hive: Hive, there: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HIVE_STORE", str(there.store_dir))
    monkeypatch.setattr("workers.local.archive.free_bytes", lambda *_: 5)
    result = hive("import", str(archive))
    assert result.code == 1
    assert "[DISK_FULL]" in result.err
    assert not any("/blobs/" in path for path in everything_below(there.store_dir))


def test_a_file_that_is_wrong_in_the_store_leaves_no_archive(
    archive: Path, settings: Settings, hive: Hive, tmp_path: Path
) -> None:
    blob = settings.hub_dir / "models--org--name" / "blobs" / sha256(FILES["model.safetensors"])
    blob.write_bytes(b"!" + FILES["model.safetensors"][1:])
    result = hive("export", "org/name", "-o", str(tmp_path / "z.tar"))
    assert result.code == 1
    assert "[CHECKSUM_MISMATCH]" in result.err
    assert not [path for path in tmp_path.iterdir() if "z.tar" in path.name]


def test_ctrl_c_leaves_nothing_half_done(archive: Path, env: dict[str, str], there: Settings) -> None:
    env["HIVE_STORE"] = str(there.store_dir)
    with subprocess.Popen(command("import", "-"), env=env, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        data = archive.read_bytes()
        process.stdin.write(data[: data.index(b"weightsweights") + 100])
        process.stdin.flush()
        assert b"verifying" in process.stderr.readline()
        process.send_signal(2)
        assert process.wait(COMMAND_TIMEOUT_S) == 130
    assert_no_model(there)
