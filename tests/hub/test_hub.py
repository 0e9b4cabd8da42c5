"""The Hub's own client, unmodified, works against the stand-in, and sees the errors it knows."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import HfApi, close_session, constants, get_hf_file_metadata
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile, RepoFolder
from huggingface_hub.utils._xet import refresh_xet_connection_info

from tests.hub import HubServer, Repo, SyntheticFile, faults, listings
from tests.hub.content import as_content
from tests.hub.fixtures import hub as hub

#: Seconds that a run of the client may take; it takes one.
HF_TIMEOUT_S = 60

MODEL = SyntheticFile(3 << 20, seed=5)


@pytest.fixture
def repo(hub: HubServer) -> Repo:
    """A repository of two small files, one in a folder, and a large one; `v1` is the commit before the large one."""
    repo = hub.create("org/name", {"config.json": b"{}\n", "sub/notes one.txt": b"hello\n"})
    repo.tag("v1")
    repo.commit({"model.gguf": MODEL}, message="Add the model")
    return repo


@pytest.fixture
def api(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[HfApi]:
    """The client's API, anonymous, which must not ask the real Hub who is calling."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    yield HfApi(endpoint=hub.endpoint, token=False)
    close_session()


class Hf:
    """The `hf` command with a cache of its own."""

    def __init__(self, hub: HubServer, home: Path) -> None:
        self.home = home
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
            "HF_ENDPOINT": hub.endpoint,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }

    def download(self, *arguments: str, token: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run `hf download`."""
        environment = self._environment | ({"HF_TOKEN": token} if token else {})
        command = [str(Path(sys.executable).with_name("hf")), "download", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=HF_TIMEOUT_S)

    def snapshot(self, repo: Repo, revision: str = "main") -> dict[str, bytes]:
        """The files of a snapshot in the cache, by path."""
        folder = self.home / "hub" / f"models--{repo.name.replace('/', '--')}" / "snapshots" / repo.at(revision).sha
        return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def hf(hub: HubServer, tmp_path: Path) -> Hf:
    """The `hf` command."""
    return Hf(hub, tmp_path / "home")


def test_hf_download_fetches_git_and_lfs_files(hub: HubServer, repo: Repo, hf: Hf) -> None:
    done = hf.download("org/name")
    assert done.returncode == 0, done.stderr
    files = hf.snapshot(repo)
    assert set(files) == {"config.json", "sub/notes one.txt", "model.gguf"}
    assert files["sub/notes one.txt"] == b"hello\n"
    assert hashlib.sha256(files["model.gguf"]).hexdigest() == MODEL.sha256()
    assert [hit.status for hit in hub.hits("*.gguf", method="HEAD")] == [302]
    assert hub.bytes_sent("*.gguf", origin="cdn") == MODEL.size


def test_hf_download_follows_the_redirect_of_small_files_to_the_resolve_cache(tmp_path: Path) -> None:
    with HubServer(resolve_cache=True) as hub:
        repo = hub.add(listings.tiny())
        hf = Hf(hub, tmp_path)
        done = hf.download("org/tiny")
        assert done.returncode == 0, done.stderr
        assert hf.snapshot(repo)["config.json"] == b'{"model_type": "llama"}\n'
        assert len(hub.hits("/api/resolve-cache/*config.json")) >= 1


def test_hf_download_fetches_a_revision(repo: Repo, hf: Hf) -> None:
    done = hf.download("org/name", "--revision", "v1")
    assert done.returncode == 0, done.stderr
    assert set(hf.snapshot(repo, "v1")) == {"config.json", "sub/notes one.txt"}


def test_hf_download_fetches_a_pull_request(repo: Repo, hf: Hf) -> None:
    repo.pull_request(1, {"config.json": b'{"fixed": true}\n', "model.gguf": None})
    done = hf.download("org/name", "--revision", "refs/pr/1")
    assert done.returncode == 0, done.stderr
    assert hf.snapshot(repo, "refs/pr/1")["config.json"] == b'{"fixed": true}\n'


def test_hf_download_fetches_what_is_included_only(hub: HubServer, repo: Repo, hf: Hf) -> None:
    done = hf.download("org/name", "--include", "*.json", "--include", "sub/*")
    assert done.returncode == 0, done.stderr
    assert set(hf.snapshot(repo)) == {"config.json", "sub/notes one.txt"}
    assert hub.hits(origin="cdn") == []


def test_hf_download_of_a_gated_repository_needs_a_token_that_opens_it(hub: HubServer, repo: Repo, hf: Hf) -> None:
    repo.gated = "manual"
    stranger = hub.access.issue("hf_stranger")
    anonymous, refused = hf.download("org/name"), hf.download("org/name", token=stranger)
    assert anonymous.returncode != 0
    assert refused.returncode != 0
    assert "requires approval" in refused.stderr
    granted = hf.download("org/name", token=hub.token)
    assert granted.returncode == 0, granted.stderr
    assert set(hf.snapshot(repo)) == {"config.json", "sub/notes one.txt", "model.gguf"}
    assert all("authorization" not in hit.headers for hit in hub.hits(origin="cdn"))


def test_hf_download_survives_a_body_that_ends_early(hub: HubServer, repo: Repo, hf: Hf) -> None:
    rule = hub.faults.add(faults.short_body(after_bytes=1 << 20), "*.gguf", origin="cdn", count=1)
    done = hf.download("org/name")
    assert done.returncode == 0, done.stderr
    assert rule.struck == 1
    assert hashlib.sha256(hf.snapshot(repo)["model.gguf"]).hexdigest() == MODEL.sha256()
    assert len(hub.hits("*.gguf", origin="cdn")) == 2


def test_model_info_names_the_commit_and_the_files(repo: Repo, api: HfApi) -> None:
    info = api.model_info("org/name", files_metadata=True)
    assert info.sha == repo.at("main").sha
    assert (info.private, info.gated) == (False, False)
    assert info.siblings is not None
    by_name = {sibling.rfilename: sibling for sibling in info.siblings}
    assert by_name["config.json"].lfs is None
    assert by_name["model.gguf"].size == MODEL.size
    lfs = by_name["model.gguf"].lfs
    assert lfs is not None
    assert lfs.sha256 == MODEL.sha256()


def test_model_info_leaves_sizes_out_unless_asked(repo: Repo, api: HfApi) -> None:
    siblings = api.model_info("org/name").siblings
    assert siblings is not None
    assert {sibling.size for sibling in siblings} == {None}


def test_model_info_expands_what_is_asked_for_only(repo: Repo, api: HfApi) -> None:
    info = api.model_info("org/name", expand=["sha", "gated"])
    assert info.sha == repo.at("main").sha
    assert info.gated is False
    assert info.siblings is None


def test_a_repository_may_have_a_name_without_an_organisation(hub: HubServer, api: HfApi) -> None:
    repo = hub.create("gpt2", {"config.json": b"{}"})
    assert api.repo_info("gpt2").sha == repo.at("main").sha
    assert [entry.path for entry in api.list_repo_tree("gpt2")] == ["config.json"]


def test_a_tree_of_more_than_a_thousand_entries_comes_in_pages(hub: HubServer, api: HfApi) -> None:
    hub.add(listings.small_files(2_500))
    entries = list(api.list_repo_tree("org/many-files", recursive=True))
    files = [entry.path for entry in entries if isinstance(entry, RepoFile)]
    assert len(set(files)) == len(files) == 2_500
    assert sum(isinstance(entry, RepoFolder) for entry in entries) == 25
    pages = hub.hits("/api/models/org/many-files/tree/main")
    assert len(pages) == 3
    assert all("recursive=true" in hit.query for hit in pages)


def test_a_tree_with_expand_comes_in_pages_of_fifty(hub: HubServer, api: HfApi) -> None:
    hub.add(listings.small_files(120))
    entries = list(api.list_repo_tree("org/many-files", recursive=True, expand=True))
    assert len(entries) == 122
    assert all(entry.last_commit is not None for entry in entries)
    assert len(hub.hits("*/tree/main")) == 3


def test_a_tree_without_recursion_lists_one_folder(repo: Repo, api: HfApi) -> None:
    root = [(type(entry), entry.path) for entry in api.list_repo_tree("org/name")]
    assert root == [(RepoFolder, "sub"), (RepoFile, "config.json"), (RepoFile, "model.gguf")]
    below = list(api.list_repo_tree("org/name", "sub"))
    assert [entry.path for entry in below] == ["sub/notes one.txt"]


def test_a_folder_that_is_absent_is_an_entry_that_is_not_found(repo: Repo, api: HfApi) -> None:
    with pytest.raises(RemoteEntryNotFoundError):
        list(api.list_repo_tree("org/name", "nowhere"))


def test_paths_info_tells_files_and_folders_and_skips_the_absent(repo: Repo, api: HfApi) -> None:
    model, folder = api.get_paths_info("org/name", ["model.gguf", "sub", "nothing"], expand=True)
    assert isinstance(model, RepoFile)
    assert isinstance(folder, RepoFolder)
    assert model.lfs is not None
    assert model.lfs.sha256 == MODEL.sha256()
    assert model.blob_id == repo.file("model.gguf").oid != MODEL.sha256()
    assert model.last_commit is not None
    assert model.last_commit.title == "Add the model"


def test_refs_lists_branches_tags_and_pull_requests(repo: Repo, api: HfApi) -> None:
    repo.branch("dev", "v1")
    change = repo.pull_request(7, {"config.json": b"[]"})
    refs = api.list_repo_refs("org/name", include_pull_requests=True)
    assert {ref.name: ref.target_commit for ref in refs.branches} == {
        "main": repo.at("main").sha,
        "dev": repo.at("v1").sha,
    }
    assert [(ref.name, ref.ref) for ref in refs.tags] == [("v1", "refs/tags/v1")]
    assert refs.pull_requests is not None
    assert [(ref.ref, ref.target_commit) for ref in refs.pull_requests] == [("refs/pr/7", change)]


def test_verify_repo_checksums_agrees_with_what_was_downloaded(repo: Repo, api: HfApi, hf: Hf, tmp_path: Path) -> None:
    folder = tmp_path / "local"
    assert hf.download("org/name", "--local-dir", str(folder)).returncode == 0
    good = api.verify_repo_checksums("org/name", local_dir=folder)
    assert (good.checked_count, good.mismatches, good.missing_paths) == (3, [], [])
    with (folder / "model.gguf").open("r+b") as file:
        file.write(b"\xff\xfe")
    (folder / "config.json").write_bytes(b"[]\n")
    bad = api.verify_repo_checksums("org/name", local_dir=folder)
    assert {(m["path"], m["algorithm"]) for m in bad.mismatches} == {
        ("model.gguf", "sha256"),
        ("config.json", "git-sha1"),
    }


def test_an_unknown_repository_is_not_found_with_and_without_a_token(hub: HubServer, api: HfApi) -> None:
    for token, status in ((False, 401), (hub.token, 404)):
        with pytest.raises(RepositoryNotFoundError) as caught:
            api.repo_info("org/absent", token=token)
        assert not isinstance(caught.value, GatedRepoError)
        assert caught.value.response.status_code == status


def test_a_private_repository_is_not_found_by_those_who_may_not_see_it(hub: HubServer, api: HfApi) -> None:
    hub.create("org/secret", {"config.json": b"{}"}, private=True)
    for token in (False, hub.access.issue("hf_stranger", "org/other")):
        with pytest.raises(RepositoryNotFoundError):
            api.repo_info("org/secret", token=token)
    member = hub.access.issue("hf_member", "org/secret")
    assert api.repo_info("org/secret", token=member).private is True


def test_a_gated_repository_is_listed_to_all_and_read_by_few(hub: HubServer, repo: Repo, api: HfApi) -> None:
    repo.gated = "manual"
    assert api.repo_info("org/name").gated == "manual"
    assert len(list(api.list_repo_tree("org/name"))) == 3
    url = hub.resolve_url(repo, "model.gguf")
    for token, status in ((False, 401), (hub.access.issue("hf_stranger"), 403)):
        with pytest.raises(GatedRepoError) as caught:
            api.get_hf_file_metadata(url=url, token=token)
        assert caught.value.response.status_code == status
    assert api.get_hf_file_metadata(url=url, token=hub.token).etag == MODEL.sha256()


def test_an_unknown_revision_is_a_revision_that_is_not_found(hub: HubServer, repo: Repo, api: HfApi) -> None:
    with pytest.raises(RevisionNotFoundError):
        api.repo_info("org/name", revision="nope")
    with pytest.raises(RevisionNotFoundError):
        api.get_hf_file_metadata(url=hub.resolve_url(repo, "config.json", "0" * 40))


def test_an_unknown_file_is_an_entry_that_is_not_found_and_names_the_commit(
    hub: HubServer, repo: Repo, api: HfApi
) -> None:
    with pytest.raises(RemoteEntryNotFoundError) as caught:
        api.get_hf_file_metadata(url=hub.resolve_url(repo, "absent.bin"))
    assert caught.value.response.headers["x-repo-commit"] == repo.at("main").sha


def test_a_token_that_nobody_issued_is_refused(api: HfApi, repo: Repo) -> None:
    with pytest.raises(HfHubHTTPError) as caught:
        api.repo_info("org/name", token="hf_forged")
    assert caught.value.response.status_code == 401
    assert not isinstance(caught.value, RepositoryNotFoundError)


def test_whoami_knows_a_token(hub: HubServer, api: HfApi) -> None:
    assert api.whoami(token=hub.token)["name"] == "stand-in"
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        api.whoami(token="hf_forged")


def test_the_metadata_of_a_git_file_is_that_of_its_blob(hub: HubServer, repo: Repo, api: HfApi) -> None:
    metadata = api.get_hf_file_metadata(url=hub.resolve_url(repo, "config.json"))
    assert metadata.commit_hash == repo.at("main").sha
    assert metadata.etag == repo.file("config.json").oid
    assert metadata.size == 3
    assert metadata.xet_file_data is None


def test_the_metadata_of_an_lfs_file_is_that_of_its_content(hub: HubServer, repo: Repo, api: HfApi) -> None:
    metadata = api.get_hf_file_metadata(url=hub.resolve_url(repo, "model.gguf", "refs/heads/main"))
    assert (metadata.etag, metadata.size) == (MODEL.sha256(), MODEL.size)
    assert metadata.location.startswith(hub.cdn_endpoint)


def test_xet_is_off_unless_switched_on(hub: HubServer, repo: Repo, api: HfApi) -> None:
    assert get_hf_file_metadata(hub.resolve_url(repo, "model.gguf"), token=False).xet_file_data is None
    (model,) = api.get_paths_info("org/name", "model.gguf")
    assert isinstance(model, RepoFile)
    assert model.xet_hash is None


def test_a_repository_with_xet_lists_hashes_and_hands_out_tokens(hub: HubServer, api: HfApi) -> None:
    hub.api.xet_endpoint = "local:///somewhere"
    repo = hub.create("org/xet", {"model.gguf": MODEL, "config.json": as_content(b"{}")}, xet=True)
    repo.set_xet_hash("model.gguf", "ab" * 32)
    data = api.get_hf_file_metadata(url=hub.resolve_url(repo, "model.gguf")).xet_file_data
    assert data is not None
    assert data.file_hash == "ab" * 32
    info = refresh_xet_connection_info(file_data=data, headers={})
    assert info.endpoint == "local:///somewhere"
    assert info.access_token
    listed = {entry.path: entry for entry in api.list_repo_tree("org/xet") if isinstance(entry, RepoFile)}
    assert listed["model.gguf"].xet_hash == "ab" * 32
    assert listed["config.json"].xet_hash is None
