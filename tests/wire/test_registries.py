"""Names of models in registries, and the store's repositories that stand for them."""

from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hive.store.layout import repo_folder, repo_of
from hive.wire.refs import RefError, dedup_key, parse_ref
from hive.wire.registries import RegistryName, read_name, registry_name

SHA256 = "a1" * 32


@pytest.mark.parametrize(
    ("text", "repo", "revision", "name"),
    [
        ("ollama:llama3.2", "ollama.library/llama3.2", "latest", ("ollama", "", "library/llama3.2")),
        ("Ollama:llama3.2:1b", "ollama.library/llama3.2", "1b", ("ollama", "", "library/llama3.2")),
        ("ollama:ns/name:q4_K_M", "ollama.ns/name", "q4_K_M", ("ollama", "", "ns/name")),
        ("oci://ghcr.io/org/x", "oci.ghcr.io/org.x", "latest", ("oci", "ghcr.io", "org/x")),
        ("oci://GHCR.io/org/phi3.5:v1", "oci.ghcr.io/org.phi3._5", "v1", ("oci", "ghcr.io", "org/phi3.5")),
        ("oci://localhost:5000/a/b/c:t", "oci.localhost.5000/a.b.c", "t", ("oci", "localhost:5000", "a/b/c")),
        ("oci://10.0.0.1/x:t", "oci.10.0.0.1/x", "t", ("oci", "10.0.0.1", "x")),
        ("oci://10.0.0.1:80/x:t", "oci.10.0.0.1.80/x", "t", ("oci", "10.0.0.1:80", "x")),
        ("modelscope:Qwen/Qwen3-8B", "modelscope.Qwen/Qwen3-8B", "master", ("modelscope", "", "Qwen/Qwen3-8B")),
        ("ModelScope:a_b/n@v1", "modelscope.a_b/n", "v1", ("modelscope", "", "a_b/n")),
        (f"oci://h/x@sha256:{SHA256}", "oci.h/x", f"sha256-{SHA256}", ("oci", "h", "x")),
    ],
)
def test_a_name_of_a_registry_is_a_repository_of_the_store(
    text: str, repo: str, revision: str, name: tuple[Literal["ollama", "oci", "modelscope"], str, str]
) -> None:
    ref = parse_ref(text)
    assert (ref.kind, ref.repo, ref.revision, ref.registry) == ("hf", repo, revision, RegistryName(*name))
    assert parse_ref(str(ref)) == ref
    assert parse_ref(f"{repo}@{revision}") == ref
    assert repo_of(repo_folder(repo)) == repo


@pytest.mark.parametrize(
    "text",
    [
        *("ollama:", "ollama:a/b/c", "ollama:../x", "ollama:a--b", "ollama:a:b:c", "ollama:x:..", "ollama:x:a/b"),
        *("ollama:com/x", "ollama:-x", "ollama:x-/y", "ollama:hf.co/org/name"),
        *("modelscope:x", "modelscope:a/b/../c", "modelscope:cn/x", "modelscope:a/b@..", "modelscope:a--b/c"),
        *("oci://", "oci://h", "oci:///x", "oci://h/X", "oci://h/../x", "oci://h/a//b", "oci://h/a--b", "oci://h/.x"),
        *("oci://h:0/x", "oci://h:99999/x", "oci://h:080/x", "oci://u:p@h/x", "oci://[::1]/x", "oci://xn--a.b/x"),
        *("oci://a.5/x", "oci://h/x@sha256:12", "oci://h/x@main", "oci://h/x:.lock", "oci://h/x?y", "oci://h/x#y"),
        *("oci.h/a..b", "oci.h.0/x", "oci.H/x", f"oci://{'h' * 95}/x", f"oci://h/{'x' * 97}"),
    ],
)
def test_what_names_nothing_or_could_be_two_is_refused(text: str) -> None:
    with pytest.raises(RefError):
        parse_ref(text)


COMPONENT = st.from_regex(r"[a-z0-9]{1,4}(?:(?:\.|_|__|-)[a-z0-9]{1,3}){0,2}", fullmatch=True)
HOST = st.from_regex(r"[a-z][a-z0-9]{0,4}(?:\.[a-z][a-z0-9]{0,3}){0,2}(?::[1-9][0-9]{0,3})?", fullmatch=True)


@given(HOST, st.lists(COMPONENT, min_size=1, max_size=3))
def test_a_repository_of_the_store_is_read_back_as_the_name_that_it_was(host: str, components: list[str]) -> None:
    path = "/".join(components)
    found = read_name(f"oci://{host}/{path}:t")
    assert found is not None
    assert registry_name(found[0]) == RegistryName("oci", host, path)


def test_two_spellings_are_one_download() -> None:
    assert dedup_key(parse_ref("ollama:llama3.2")) == dedup_key(parse_ref("ollama:library/llama3.2:latest"))
    assert dedup_key(parse_ref("ollama:llama3.2")) != dedup_key(parse_ref("ollama:llama3.2:1b"))


def test_a_path_or_a_quantisation_is_written_on_modelscope_as_on_the_hub() -> None:
    for text in ("modelscope:o/n@v1:Q4_K_M", "modelscope:o/n/sub/f.gguf@master", "modelscope:o/n/sub/@v1"):
        ref = parse_ref(text)
        assert str(ref) == text
        assert parse_ref(str(ref)) == ref
