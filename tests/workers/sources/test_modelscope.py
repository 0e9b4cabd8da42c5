"""Models of ModelScope as plans, and fetched."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hive.errors import DownloadError, HiveError, ModelNotFound, RevisionNotFound
from hive.settings import Settings
from hive.store.catalog import ModelCatalog
from hive.wire.refs import parse_ref
from tests.hub import HubServer
from tests.support.modelscope_server import ModelScopeServer
from tests.support.plans import content_of, download, plan_for

FILES = {
    "model-Q4_K_M.gguf": b"GGUF four",
    "model-Q8_0.gguf": b"GGUF eight",
    "sub/deep er/a+b.json": b"{}",
    ".gitattributes": b"*",
    "README.md": b"# A model",
}


@pytest.fixture
def server(hub: HubServer) -> Iterator[ModelScopeServer]:
    with ModelScopeServer(hub, FILES) as server:
        yield server


@pytest.fixture
def settings(hub_settings: Settings, server: ModelScopeServer) -> Settings:
    values = {"HIVE_STORE": str(hub_settings.store_dir), "HIVE_HOME": str(hub_settings.home_dir)}
    return Settings.from_env(
        values | {"HIVE_MODELSCOPE_ENDPOINT": f"http://{server.host}/", "HF_ENDPOINT": "http://h.test"}
    )


def test_a_variant_comes_as_from_the_hub(server: ModelScopeServer, settings: Settings) -> None:
    plan = plan_for(settings, "modelscope:Org/model:Q8_0", token="hf_secret")
    assert [file.path for file in plan.files] == ["model-Q8_0.gguf"]
    assert (plan.repo, plan.revision, plan.variant) == ("modelscope.Org/model", "master", "Q8_0")
    assert ".gitattributes" not in [file.path for file in plan.tree]
    download(settings, plan)
    [model] = ModelCatalog(settings).list()
    assert (model.id, model.refs) == ("modelscope.Org/model@master:Q8_0", ("master",))
    assert ModelCatalog(settings).find(parse_ref("modelscope:Org/model:Q8_0")) is not None
    assert {authorization for _, authorization in server.requests} == {None}

    [other] = plan_for(settings, "modelscope:Org/model/sub/deep er/a+b.json@master").files
    assert content_of(other) == b"{}"


def test_the_same_files_are_the_same_commit_and_what_is_pinned_comes_by_its_listing(
    server: ModelScopeServer, settings: Settings
) -> None:
    before = plan_for(settings, "modelscope:Org/model:Q8_0")
    assert plan_for(settings, "modelscope:Org/model:Q4_K_M").commit == before.commit
    download(settings, before)
    server.files["README.md"] = b"# Another"
    assert plan_for(settings, "modelscope:Org/model").commit != before.commit
    again = plan_for(settings, f"modelscope:Org/model@{before.commit}:Q8_0")
    assert (again.commit, content_of(again.files[0])) == (before.commit, b"GGUF eight")
    with pytest.raises(RevisionNotFound):
        plan_for(settings, f"modelscope:Org/model@{'f' * 40}")


def test_a_listing_that_is_cut_off_is_asked_for_folder_by_folder(
    server: ModelScopeServer, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.sources.modelscope.LISTING_LIMIT", 6)
    server.limit = 6
    plan = plan_for(settings, "modelscope:Org/model", include=("*",))
    assert {file.path for file in plan.files} == set(FILES) - {".gitattributes"}
    server.files |= {f"{number}.txt": b"x" for number in range(6)}
    with pytest.raises(DownloadError, match="more files in a folder"):
        plan_for(settings, "modelscope:Org/model")


@pytest.mark.parametrize(
    ("wrong", "error", "said"),
    [
        ({"Sha256": ""}, DownloadError, "tells no SHA-256"),
        ({"Sha256": "../../x"}, DownloadError, "tells no SHA-256"),
        ({"Size": -1}, DownloadError, "tells no SHA-256"),
        ({"Path": "../../etc/x.gguf"}, DownloadError, "a name that hive does not write"),
        ({"Path": "model-Q4_K_M.gguf"}, DownloadError, "lists a file of Org/model twice"),
    ],
)
def test_what_cannot_be_checked_or_written_is_refused(
    server: ModelScopeServer, settings: Settings, wrong: dict[str, object], error: type[HiveError], said: str
) -> None:
    server.wrong["model-Q8_0.gguf"] = wrong
    with pytest.raises(error, match=said):
        plan_for(settings, "modelscope:Org/model", include=("*",))


@pytest.mark.parametrize("ref", ["modelscope:Org/other", "modelscope:Org/model@v2"])
def test_what_is_not_there_is_not_found(settings: Settings, ref: str) -> None:
    with pytest.raises(ModelNotFound, match=r"ModelScope \(127\.0\.0\.1:\d+\) has no Org/"):
        plan_for(settings, ref)
