"""Models of registries as plans, and fetched."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hive.errors import (
    ChecksumMismatch,
    DownloadError,
    HiveError,
    HubRefused,
    ModelAccessDenied,
    ModelNotFound,
    RevisionNotFound,
    UnsafeUrl,
)
from hive.settings import Settings
from hive.store.catalog import ModelCatalog
from hive.store.given_up import given_up
from hive.store.restricted import AccessNotes, ProbeFile
from hive.wire.refs import parse_ref
from tests.hub import HubServer
from tests.support.oci_registry import INDEX, OciRegistry
from tests.support.plans import content_of, download, plan_for
from tests.support.store import put, sha256
from workers.fetch import network_of
from workers.publish import Store
from workers.sources import PlannedFile, resolve
from workers.sources.registry import MAX_LAYERS
from workers.transfer import journal_path

OLLAMA = "application/vnd.ollama.image."
GGUF = b"GGUF" + bytes(1000)


@pytest.fixture
def registry(hub: HubServer) -> Iterator[OciRegistry]:
    with OciRegistry(hub) as registry:
        yield registry


@pytest.fixture
def settings(hub_settings: Settings, registry: OciRegistry) -> Settings:
    values = {"HIVE_STORE": str(hub_settings.store_dir), "HIVE_HOME": str(hub_settings.home_dir)}
    return Settings.from_env(
        values | {"HIVE_OLLAMA_REGISTRY": f"http://{registry.host}", "HF_ENDPOINT": "http://h.test"}
    )


def put_ollama(registry: OciRegistry, tag: str = "1b", model: bytes = GGUF) -> str:
    about = json.dumps({"model_format": "gguf", "file_type": "Q4_K_M"}).encode()
    config = {"digest": registry.blob(about, direct=about), "size": len(about)}
    layers = [
        registry.layer(model, f"{OLLAMA}model"),
        registry.layer(b"{{ .Prompt }}", f"{OLLAMA}template"),
        registry.layer(b"GGUF lora", f"{OLLAMA}adapter"),
        registry.layer(b"one", f"{OLLAMA}license"),
        registry.layer(b"two", f"{OLLAMA}license"),
        registry.layer(b'{"stop":[]}', f"{OLLAMA}params"),
        registry.layer(b"?", f"{OLLAMA}unheard-of"),
    ]
    return registry.put("library/tiny", tag, {"config": config, "layers": layers})


@pytest.mark.parametrize("tokens", [False, True])
def test_a_model_of_ollamas_is_a_gguf_and_what_comes_with_it(
    registry: OciRegistry, settings: Settings, hub: HubServer, tokens: bool
) -> None:
    registry.tokens = tokens
    put_ollama(registry)
    plan = plan_for(settings, "ollama:tiny:1b", token="hf_secret")

    paths = ["tiny-1b-Q4_K_M.gguf", "template", "adapter-tiny-1b-Q4_K_M.gguf", "LICENSE", "LICENSE.2", "params.json"]
    assert [file.path for file in plan.files] == paths
    assert (plan.primary, plan.repo, plan.revision) == (paths[0], "ollama.library/tiny", "1b")

    download(settings, plan)
    model = ModelCatalog(settings).get("ollama.library/tiny@1b:Q4_K_M")
    assert model.refs == ("1b",)
    found = ModelCatalog(settings).find(parse_ref("ollama:tiny:1b"))
    assert found is not None
    assert found.local_path == model.path
    assert ModelCatalog(settings).find(parse_ref(model.id)) is not None
    assert {authorization for _, authorization in registry.requests} <= {None, "Bearer repository:library/tiny:pull#1"}
    assert all("authorization" not in hit.headers for hit in hub.hits())


def test_two_tags_of_one_manifest_are_two_models_on_one_blob(registry: OciRegistry, settings: Settings) -> None:
    for tag in ("latest", "1b"):
        put_ollama(registry, tag=tag)
        download(settings, plan_for(settings, f"ollama:tiny:{tag}"))
    catalog = ModelCatalog(settings)
    ids = ["ollama.library/tiny@1b:Q4_K_M", "ollama.library/tiny@latest:Q4_K_M"]
    assert {*ids} <= {model.id for model in catalog.list()}
    one, other = (catalog.get(model_id) for model_id in ids)
    assert os.path.samefile(one.path, other.path)
    assert catalog.find(parse_ref("ollama:tiny")) is not None
    catalog.delete(one.id)
    assert Path(other.path).read_bytes() == GGUF


def test_what_is_pinned_comes_by_its_listing_when_the_tag_has_moved(registry: OciRegistry, settings: Settings) -> None:
    registry.tokens = True
    put_ollama(registry)
    before = plan_for(settings, "ollama:tiny:1b")
    download(settings, before)
    put_ollama(registry, model=b"GGUF another")
    again = plan_for(settings, f"{before.repo}@{before.commit}")
    assert again.commit == before.commit
    assert {file.path: file.digest for file in again.files} == {file.path: file.digest for file in before.files}
    assert {file.path: content_of(file) for file in again.files}["tiny-1b-Q4_K_M.gguf"] == GGUF
    with pytest.raises(RevisionNotFound):
        plan_for(settings, f"{before.repo}@{'f' * 40}")


def test_an_artifacts_files_are_called_by_their_titles_through_an_index_and_by_digest(
    registry: OciRegistry, settings: Settings
) -> None:
    as_oras = "application/vnd.oci.image.layer.v1.tar"  # what `oras push` calls every file
    layers = [
        registry.layer(b"{}", as_oras, title="config.json"),
        registry.layer(b"weights", title="sub/model.safetensors"),
    ]
    digest = registry.put("org/phi3.5", "only", {"layers": layers})
    entry = {"mediaType": "m", "digest": digest, "size": 1}
    signed = {**entry, "digest": f"sha256:{'0' * 64}", "annotations": {"vnd.docker.reference.type": "attestation"}}
    registry.put("org/phi3.5", "v1", {"mediaType": INDEX, "manifests": [entry, signed]})
    for ref in (f"oci://{registry.host}/org/phi3.5:v1", f"oci://{registry.host}/org/phi3.5@{digest}"):
        plan = plan_for(settings, ref)
        assert plan.commit == digest[7:47]
        assert {file.path: content_of(file) for file in plan.files} == {
            "config.json": b"{}",
            "sub/model.safetensors": b"weights",
        }


def test_a_token_that_is_refused_or_old_is_exchanged(
    registry: OciRegistry, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.tokens = True
    put_ollama(registry)
    one, other, *_ = plan_for(settings, "ollama:tiny:1b").files

    def token(file: PlannedFile) -> str:
        return file.source.locate().headers["Authorization"].rpartition("#")[2]

    assert (token(one), token(other)) == ("1", "1")
    assert (token(one), token(other)) == ("2", "2")
    monkeypatch.setattr("workers.sources.registry.TOKEN_MARGIN_S", 10_000.0)
    assert token(plan_for(settings, "ollama:tiny:1b").files[2]) >= "3"


def _manifest(registry: OciRegistry, *layers: dict[str, object]) -> None:
    registry.put("org/x", "latest", {"layers": list(layers)})


def test_what_cannot_be_a_model_is_refused(registry: OciRegistry, settings: Settings) -> None:
    ref = f"oci://{registry.host}/org/x"
    file = registry.layer(b"x", title="a.safetensors")

    def refused(error: type[HiveError], text: str, *layers: dict[str, object]) -> None:
        if layers:
            _manifest(registry, *layers)
        with pytest.raises(error, match=text):
            plan_for(settings, ref)

    refused(ModelNotFound, r"The registry 127.0.0.1:\d+ has no org/x with latest")
    refused(DownloadError, "name that hive does not write", registry.layer(b"x", title="../../etc/x"))
    refused(DownloadError, "two files that are called", file, registry.layer(b"y", title="a.safetensors"))
    refused(DownloadError, "layers have no titles", registry.layer(b"x"))
    titled = {"org.cncf.model.filepath": "d"}
    for media_type, more in (
        ("application/vnd.cncf.model.weight.v1.tar", titled),  # ModelPack
        ("application/vnd.kitops.modelkit.model.v1.tar+gzip", {}),
        ("application/vnd.docker.ai.vllm.config.tar", titled),
        ("application/vnd.docker.image.rootfs.diff.tar.gzip", {}),
        ("application/vnd.oci.image.layer.v1.tar", {}),
        ("application/vnd.oci.image.layer.v1.tar+gzip", {"title": "d", "io.deis.oras.content.unpack": "true"}),
    ):
        refused(DownloadError, "does not unpack.* one by one", registry.layer(b"x", media_type, **more))
    refused(DownloadError, "SHA-256 and its size", {**file, "digest": "sha512:00"})
    refused(DownloadError, "SHA-256 and its size", {**file, "size": -1})
    registry.put("org/x", "latest", {"mediaType": INDEX, "manifests": [file, {**file, "digest": f"sha256:{'1' * 64}"}]})
    refused(DownloadError, "index of several manifests")
    for none in ("null", "[]"):
        registry.put("org/x", "latest", {"mediaType": INDEX, "manifests": json.loads(none)})
        refused(DownloadError, "names no manifest")
    registry.put("org/x", "latest", {"layers": []})
    refused(DownloadError, "has no layers")
    registry.tokens, registry.realm = True, "ftp://elsewhere.test/token"
    refused(HubRefused, "without encryption")
    registry.realm = "http://[::1"
    refused(HubRefused, "cannot be asked")
    registry.realm = "https://elsewhere.test:99999/token"
    refused(HubRefused, "cannot be asked")
    registry.realm = f"http://{registry.host}/nowhere"
    refused(ModelAccessDenied, "gives nobody a token")


def test_many_layers_of_a_kind_are_named_in_no_time(registry: OciRegistry, settings: Settings) -> None:
    licence = registry.layer(b"one", f"{OLLAMA}license")
    layers = [registry.layer(GGUF, f"{OLLAMA}model"), *([licence] * (MAX_LAYERS - 1))]
    registry.put("library/tiny", "1b", {"layers": layers})
    began_s = time.process_time()
    assert plan_for(settings, "ollama:tiny:1b").files[-1].path == f"LICENSE.{MAX_LAYERS - 1}"
    assert time.process_time() - began_s < 2


def test_who_names_the_digest_of_a_restricted_file_gets_no_link_to_it(
    registry: OciRegistry, settings: Settings
) -> None:
    commit = put(settings, "org/gated", {"m.gguf": GGUF}).name
    AccessNotes(settings.hive_dir).note("org/gated", commit, [ProbeFile("org/gated", commit, "m.gguf")])
    put_ollama(registry)
    ref, store = parse_ref("ollama:tiny:1b"), Store(settings)
    for as_operator in (False, True):
        plan = resolve(ref, settings=settings, network=network_of(settings, ref), as_operator=as_operator)
        journal_path(store.partial(plan, plan.files[0])).touch()
        assert store.link_existing(plan, plan.files[0], lambda: None) is as_operator
        # What was half there, and goes for the link's sake, may have been handed out.
        assert (given_up(settings.hive_dir, sha256(GGUF)) > 0) is as_operator
    put_ollama(registry, tag="2b", model=b"GGUF another")
    other = plan_for(settings, "ollama:tiny:2b")
    store.note_access(other, ())
    assert AccessNotes(settings.hive_dir).places("ollama.library/tiny", other.commit or "")


def test_a_strangers_registry_writes_no_partial_file_that_others_wait_for_and_no_note_for_them(
    registry: OciRegistry, settings: Settings
) -> None:
    _manifest(registry, registry.layer(GGUF, title="m.gguf"))
    put_ollama(registry)
    refs = ("ollama:tiny:1b", f"oci://{registry.host}/org/x", f"oci://{registry.host}/org/x:latest", "https://h.test/m")
    plans = [plan_for(settings, ref, sha256=sha256(GGUF) if "h.test" in ref else None) for ref in refs]
    shared, own, same, url = (Store(settings).partial(plan, plan.files[0]).name for plan in plans)
    assert shared == sha256(GGUF)
    assert own == same
    assert len({shared, own, url}) == 3
    for plan, is_noted in zip(reversed(plans), (False, False, False, True), strict=True):
        Store(settings).note_given_up(plan, plan.files[0])
        assert (given_up(settings.hive_dir, sha256(GGUF)) > 0) is is_noted


def test_a_wrong_manifest_or_configuration_is_noticed(registry: OciRegistry, settings: Settings) -> None:
    config = {"digest": registry.blob(b"{}", direct=b"[]"), "size": 2}
    registry.put("library/tiny", "1b", {"config": config, "layers": [registry.layer(GGUF, f"{OLLAMA}model")]})
    with pytest.raises(ChecksumMismatch):
        plan_for(settings, "ollama:tiny:1b")


def test_a_strangers_registry_goes_by_the_table_of_urls_and_the_settings_own_does_not(
    registry: OciRegistry, settings: Settings
) -> None:
    put_ollama(registry)
    _manifest(registry, registry.layer(b"x", title="a.safetensors"))
    ours, theirs = parse_ref("ollama:tiny:1b"), parse_ref(f"oci://{registry.host}/org/x")
    with pytest.raises(UnsafeUrl):
        resolve(theirs, settings=settings, network=network_of(settings, theirs))
    assert resolve(ours, settings=settings, network=network_of(settings, ours)).files
