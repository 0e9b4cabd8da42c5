"""References: read once, rebuilt from their parts, and refused when two parsers could read them differently."""

from __future__ import annotations

import contextlib
import time
from pathlib import PurePosixPath

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hive.wire.refs import (
    MAX_REF_CHARS,
    ModelRef,
    RefError,
    check_path,
    dedup_key,
    parse_ref,
    path_problem,
    with_query,
    without_query,
)

NAMES = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9_]{0,20}[A-Za-z0-9])?", fullmatch=True)
REVISIONS = st.none() | st.from_regex(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,20}[A-Za-z0-9])?", fullmatch=True).filter(
    lambda text: ".." not in text and not text.endswith(".lock")
)
PATHS = st.text(min_size=1, max_size=60).filter(lambda path: path_problem(path) is None)
#: Seconds of a processor for the longest reference; it takes some hundredths.
MAX_PARSE_S = 2.0
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class TestHub:
    """References to the Hub."""

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("hf:org/name", ModelRef(repo="org/name")),
            ("org/name", ModelRef(repo="org/name")),
            ("hf://org/name", ModelRef(repo="org/name")),
            ("HF:org/name", ModelRef(repo="org/name")),
            ("hf.co/org/name", ModelRef(repo="org/name")),
            ("hf.co/org/name:Q4_K_M", ModelRef(repo="org/name", quant="Q4_K_M")),
            ("huggingface.co/org/name", ModelRef(repo="org/name")),
            ("hf:org/name:q4_k_m", ModelRef(repo="org/name", quant="Q4_K_M")),
            ("hf:org/name@main", ModelRef(repo="org/name", revision="main")),
            ("hf:org/name@refs/pr/1:UD-Q4_K_XL", ModelRef(repo="org/name", revision="refs/pr/1", quant="UD-Q4_K_XL")),
            ("hf:org/name/a/b.gguf", ModelRef(repo="org/name", path="a/b.gguf")),
            ("hf:org/name/my model.gguf", ModelRef(repo="org/name", path="my model.gguf")),
            ("hf:org/name/a.gguf@v1.0", ModelRef(repo="org/name", path="a.gguf", revision="v1.0")),
            ("hf:org/name/a@2x.gguf@main", ModelRef(repo="org/name", path="a@2x.gguf", revision="main")),
            ("o.r-g_1/N.a-m_e", ModelRef(repo="o.r-g_1/N.a-m_e")),
            ("hf:datasets/org/name", ModelRef(repo="datasets/org/name")),
            ("datasets/org/name/data/a.csv@v1", ModelRef(repo="datasets/org/name", path="data/a.csv", revision="v1")),
            ("hf://datasets/org/name/a.csv", ModelRef(repo="datasets/org/name", path="a.csv")),
            ("https://huggingface.co/datasets/org/name", ModelRef(repo="datasets/org/name")),
            (
                "https://huggingface.co/datasets/org/name/resolve/refs%2Fpr%2F1/a.csv",
                ModelRef(repo="datasets/org/name", revision="refs/pr/1", path="a.csv"),
            ),
            ("hf download org/name a.csv --repo-type dataset", ModelRef(repo="datasets/org/name", path="a.csv")),
            ('load_dataset("org/name")', ModelRef(repo="datasets/org/name")),
            ('snapshot_download("org/name", repo_type="dataset")', ModelRef(repo="datasets/org/name")),
            ("~/hub/datasets--org--name", ModelRef(repo="datasets/org/name")),
            ("hf:spaces/org/name/app.py", ModelRef(repo="spaces/org/name", path="app.py")),
            ("https://huggingface.co/org/name", ModelRef(repo="org/name")),
            ("https://hf.co/org/name/", ModelRef(repo="org/name")),
            ("https://HuggingFace.co:443/org/name?library=x", ModelRef(repo="org/name")),
            (
                "https://huggingface.co/org/name/resolve/main/a/b.gguf?download=true",
                ModelRef(repo="org/name", revision="main", path="a/b.gguf"),
            ),
            (
                "https://huggingface.co/org/name/blob/refs%2Fpr%2F1/my%20model.gguf",
                ModelRef(repo="org/name", revision="refs/pr/1", path="my model.gguf"),
            ),
            ("https://huggingface.co/org/name/tree/v1.0", ModelRef(repo="org/name", revision="v1.0")),
            (
                "https://huggingface.co/org/name/tree/v1.0/a/folder",
                ModelRef(repo="org/name", revision="v1.0", path="a/folder/"),
            ),
            ("hf:org/name/folder/", ModelRef(repo="org/name", path="folder/")),
            ("hf:org/name/", ModelRef(repo="org/name")),
            ("hf:org/name.git", ModelRef(repo="org/name")),
            ("hf:org/name/data@v2/f.gguf", ModelRef(repo="org/name", path="data@v2/f.gguf")),
            ("hf:org/name/e:v1/f.pth", ModelRef(repo="org/name", path="e:v1/f.pth")),
            ("hf:org/name/data@v2/f.gguf@main", ModelRef(repo="org/name", path="data@v2/f.gguf", revision="main")),
            ("hf:org/name/file@feature/x", ModelRef(repo="org/name", path="file", revision="feature/x")),
            ("hf:org/name@feature/x", ModelRef(repo="org/name", revision="feature/x")),
            ("hf:org/name@feature/f.gguf", ModelRef(repo="org/name", revision="feature/f.gguf")),
            ("org/name:file-Q8_0.gguf", ModelRef(repo="org/name", path="file-Q8_0.gguf")),
            ("org/name:sub/file.gguf", ModelRef(repo="org/name", path="sub/file.gguf")),
            ("org/name@v1:file.gguf", ModelRef(repo="org/name", revision="v1", path="file.gguf")),
            ("hf:org/name/aux/x.json", ModelRef(repo="org/name", path="aux/x.json")),
        ],
    )
    def test_every_way_to_write_one_is_read(self, text: str, expected: ModelRef) -> None:
        assert parse_ref(text) == expected

    @pytest.mark.parametrize(
        "text",
        [
            "",
            " ",
            "name",
            "hf:name",
            "hf:/name",
            "hf:org/",
            "org//name",
            "hf:org/name@",
            "hf:org/name:",
            "hf:org/name@main:",
            "hf:org/name/file.gguf:Q4_K_M",
            "hf:../name",
            "hf:org/..",
            "hf:org/na--me",
            "hf:org/.name",
            "hf:org/name/../secret",
            "hf:org/name//etc/passwd",
            "hf:org/name/.git/config",
            "hf:org/name@../../x",
            "hf:org/name@a//b",
            "hf:org/name@-rf",
            "hf:org/name@x.lock",
            "hf:org/na me",
            "hf:org/name@a b",
            "hf:org\\name",
            "hf:org/name\x00",
            "hf:org/n\u00e4me",
            "hf:org/name:Q4 K M",
            "file:etc/passwd",
            "file://host/share/f.gguf",
            "file:///models/",
            "file:///models/../etc/passwd",
            "file:///f?query",
            "file://[::1/f",
            "file://[]/f",
            "file://\u2100.example/f",
            "ftp://host.example/f",
            "s3:bucket/key",
            "gs://bucket/folder/",
            "ollama:",
            "llama3.2",
            "llama3.2:3b",
            "ollama.com/library/llama3.2",
            "https://huggingface.co/collections/org/x-123",
            "https://huggingface.co/papers/2401.00001",
            "https://huggingface.co/models?search=llama",
            "datasets/name",
            "hf:datasets/name",
            "hf:datasets/org/name:Q4_K_M",
            "spaces/org/name",
            "hf:org/name@sha256:" + "ab" * 32,
            "org/name:Q4_K_M:Q8_0",
            "hf download org/name a.gguf b.gguf",
            "hf download org/name --include *.gguf",
            "hf download org/name --repo-type space",
            "hf upload org/name",
            "https://huggingface.co/org",
            "https://huggingface.co/datasets/name",
            "https://huggingface.co/spaces/org/name",
            "https://huggingface.co/org/name/discussions/1",
            "https://huggingface.co/org/name/resolve/main/..%2f..%2fsecret",
            "https://huggingface.co/org/name/resolve/main/a%00b",
            "x" * (MAX_REF_CHARS + 1),
        ],
    )
    def test_what_is_none_is_refused_with_a_sentence(self, text: str) -> None:
        with pytest.raises(RefError, match=r"\.$"):
            parse_ref(text)

    @given(NAMES, NAMES, REVISIONS, st.none() | PATHS, st.none() | st.sampled_from(["Q4_K_M", "UD-IQ1_S", "F16"]))
    def test_what_is_written_is_read_back(
        self, org: str, name: str, revision: str | None, path: str | None, quant: str | None
    ) -> None:
        if path is not None:
            quant = None
        ref = ModelRef(repo=f"{org}/{name}", revision=revision, path=path, quant=quant)
        read = parse_ref(str(ref))

        # A path that holds '@' or ':' is written with its revision.
        assert read in (ref, msgspec.structs.replace(ref, revision=ref.rev))
        assert dedup_key(read) == dedup_key(ref)

    @given(st.text(max_size=200))
    @example(")#")
    @example(")#?")
    @example(")?")
    def test_whatever_is_accepted_is_written_back_the_same(self, text: str) -> None:
        for candidate in (text, f"hf:{text}", f"hf:org/name/{text}", f"hf:org/name@{text}", f"https://host/{text}"):
            try:
                ref = parse_ref(candidate)
            except RefError:
                continue
            assert parse_ref(str(ref)) == ref

    def test_the_revision_that_is_meant_is_main(self) -> None:
        assert parse_ref("org/name").rev == "main"
        assert parse_ref("org/name@v1").rev == "v1"

    def test_only_a_full_commit_is_pinned(self) -> None:
        assert parse_ref(f"org/name@{COMMIT}").is_pinned
        assert not parse_ref(f"org/name@{COMMIT[:39]}").is_pinned
        assert not parse_ref(f"org/name@{COMMIT.upper()}").is_pinned
        assert not parse_ref("org/name").is_pinned


class TestPasted:
    """What people copy from somewhere."""

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("  hf:org/name\n", "hf:org/name"),
            ('"org/name"', "hf:org/name"),
            ("'hf:org/name:Q4_K_M'", "hf:org/name:Q4_K_M"),
            ("`org/name`", "hf:org/name"),
            ("<https://huggingface.co/org/name>", "hf:org/name"),
            ("\u201corg/name\u201d", "hf:org/name"),
            ("hf download org/name", "hf:org/name"),
            ("$ hf download org/name", "hf:org/name"),
            ("hf download org/name file.gguf", "hf:org/name/file.gguf"),
            ("hf download org/name sub/f.gguf --local-dir . --revision v1", "hf:org/name/sub/f.gguf@v1"),
            ("huggingface-cli download org/name --local-dir=/models --quiet", "hf:org/name"),
            ("huggingface-cli download --resume-download org/name", "hf:org/name"),
            ("hive pull hf:org/name:Q8_0", "hf:org/name:Q8_0"),
            ("hf-hub:org/name", "hf:org/name"),
            ("hf_hub:org/name", "hf:org/name"),
            ("huggingface://org/name:Q8_0", "hf:org/name:Q8_0"),
            ("HuggingFace:org/name@v1", "hf:org/name@v1"),
            ("hf:/org/name", "hf:org/name"),
            ("hf:///org/name/f.gguf", "hf:org/name/f.gguf"),
            ("ollama run hf.co/org/name:Q4_K_M", "hf:org/name:Q4_K_M"),
            ("ollama pull huggingface.co/org/name", "hf:org/name"),
            ("git clone https://huggingface.co/org/name.git", "hf:org/name"),
            ("git clone git@hf.co:org/name", "hf:org/name"),
            ("llama-cli -hf org/name:Q4_K_M -p hello", "hf:org/name:Q4_K_M"),
            ("vllm serve org/name --dtype auto", "hf:org/name"),
            ("https://huggingface.co/org/name.git", "hf:org/name"),
            ("https://huggingface.co/org/name/tree/main", "hf:org/name@main"),
            ("https://huggingface.co/org/name/tree/main/", "hf:org/name@main"),
            ("https://huggingface.co/org/name/tree/main/UD-Q4_K_XL", "hf:org/name/UD-Q4_K_XL/@main"),
            ("https://huggingface.co/org/name?show_file_info=f-Q4.gguf", "hf:org/name/f-Q4.gguf@main"),
            ("https://huggingface.co/org/name/commit/" + COMMIT, f"hf:org/name@{COMMIT}"),
            ("huggingface.co/org/name/resolve/main/f.gguf?download=true", "hf:org/name/f.gguf@main"),
            ("hf.co/org/name/blob/main/f.gguf", "hf:org/name/f.gguf@main"),
            ("hf.co/org/name/", "hf:org/name"),
            ("hf.co/org/name/f.gguf", "hf:org/name/f.gguf"),
            ("hf.co/org/name/f.gguf?download=true", "hf:org/name/f.gguf"),
            ("hf.co/org/name:latest", "hf:org/name"),
            ("ollama run hf.co/org/name:LATEST", "hf:org/name"),
            ("org/name:latest@v1", "hf:org/name@v1"),
            ("https://huggingface.co/org/name/tree/refs/pr/1", "hf:org/name@refs/pr/1"),
            ("https://huggingface.co/org/name/tree/refs/pr/1/folder", "hf:org/name/folder/@refs/pr/1"),
            ("https://huggingface.co/org/name/blob/refs/pr/12/a/f.gguf", "hf:org/name/a/f.gguf@refs/pr/12"),
            (
                "https://huggingface.co/org/name/resolve/refs/convert/gguf/f.gguf",
                "hf:org/name/f.gguf@refs/convert/gguf",
            ),
            ("https://huggingface.co/org/name/tree/refs/folder", "hf:org/name/folder/@refs"),
            ("https://huggingface.co/api/models/org/name/revision/v1", "hf:org/name@v1"),
            ("org/name@refs%2Fpr%2F1", "hf:org/name@refs/pr/1"),
            ("org/name//", "hf:org/name"),
            ("https://www.hf.co/org/name", "hf:org/name"),
            ("huggingface.com/org/name:Q8_0", "hf:org/name:Q8_0"),
            ("ssh://git@hf.co/org/name.git", "hf:org/name"),
            ("models--org--name", "hf:org/name"),
            ("models--some-org--some.name-7B/", "hf:some-org/some.name-7B"),
            ("[org/name](https://huggingface.co/org/name)", "hf:org/name"),
            ("wget https://huggingface.co/org/name/resolve/main/f.gguf", "hf:org/name/f.gguf@main"),
            (
                'wget -c "https://huggingface.co/org/name/resolve/main/f.gguf?download=true" -O x',
                "hf:org/name/f.gguf@main",
            ),
            ("curl -L -o f.gguf https://host.example/f.gguf", "https://host.example/f.gguf"),
            ("aria2c -x 8 https://huggingface.co/org/name/resolve/main/f.gguf", "hf:org/name/f.gguf@main"),
            ("git lfs clone https://huggingface.co/org/name", "hf:org/name"),
            ("GIT_LFS_SKIP_SMUDGE=1 git clone https://huggingface.co/org/name", "hf:org/name"),
            ("./build/bin/llama-cli -hf org/name:Q4_K_M -p Hi", "hf:org/name:Q4_K_M"),
            ("./llama-server --hf-repo org/name --hf-file f.gguf", "hf:org/name/f.gguf"),
            ("uvx hf download org/name", "hf:org/name"),
            ("HF_TOKEN=x hf download org/name f.gguf", "hf:org/name/f.gguf"),
            ("docker model run hf.co/org/name:Q4_K_M", "hf:org/name:Q4_K_M"),
            ("docker run --gpus all vllm/vllm-openai:latest --model org/name", "hf:org/name"),
            ("python -m vllm.entrypoints.openai.api_server --model org/name", "hf:org/name"),
            ("python3 -m sglang.launch_server --model-path org/name --port 1", "hf:org/name"),
        ],
    )
    def test_what_has_one_meaning_is_read_as_that(self, text: str, expected: str) -> None:
        assert str(parse_ref(text)) == expected

    @pytest.mark.parametrize("endpoint", ["", "https://mirror.example", "http://127.0.0.1:8080/hub"])
    @pytest.mark.parametrize(
        "host",
        [
            "[::ffff:127.1]",
            "[::1",
            "::1]",
            "[]",
            "[1]",
            "[v1.x]",
            "[::1]x",
            "[[::1]]",
            "[::1%]",
            "[1:2:3:4:5:6:7:8:9]",
            "[\uff1a\uff1a1]",
            "\u2100.example",
            "a\uff0fb",
            "a\uff20b",
            "a:\u0661",
            "a:1e3",
            "a:99999",
            "a:-1",
        ],
    )
    @pytest.mark.parametrize(
        "form", ["http://{}/x.bin", "https://{}/a/b/resolve/main/x", "curl -L http://{}/x", "file://{}/x"]
    )
    def test_a_host_that_is_none_is_refused_in_a_sentence(self, form: str, host: str, endpoint: str) -> None:
        with pytest.raises(RefError):
            parse_ref(form.format(host), endpoint)

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("llama3.2:3b", "hf:bartowski/Llama-3.2-3B-Instruct-GGUF"),
            ("llama3.2", "hf:bartowski/Llama-3.2-3B-Instruct-GGUF"),
            ("llama3.2:1b", "hf:bartowski/Llama-3.2-1B-Instruct-GGUF"),
            ("qwen3:8b", "write ollama:qwen3:8b for that. The Hub has the model as hf:Qwen/Qwen3-8B-GGUF"),
            ("ollama.com/library/gemma3:4b", "hf:ggml-org/gemma-3-4b-it-GGUF"),
            ("https://ollama.com/library/phi4", "hf:microsoft/phi-4-gguf"),
            ("ollama run mistral", "hf:bartowski/Mistral-7B-Instruct-v0.3-GGUF"),
            ("newmodel:7b", "search=newmodel"),
            ("gpt2", "'gpt2' names no repository. Its name has two parts"),
            ("hf:gpt2", "search=gpt2"),
            ("hf-hub:gpt2", "search=gpt2"),
            ("bert-base-uncased", "search=bert-base-uncased"),
            ("modelscope.cn/models/org/name", "write https://"),
            ("github.com/org/name/releases/download/v1/f.gguf", "write https://"),
            ("wget https://h.example/a https://h.example/b", "one of the addresses"),
            ("modelscope:qwen", "'qwen' names no repository of ModelScope. Write modelscope:org/name"),
            ("gs:///f.gguf", "Write gs://bucket/path"),
            ("az://a", "name of a container. Write az://container/path"),
            ("docker run ghcr.io/org/image", "names no repository"),
            ("ollama pull newmodel", "search=newmodel"),
            ("https://huggingface.co/datasets/name", "hf:datasets/org/name"),
            ("https://huggingface.co/spaces/org/name", "Space"),
            ("https://huggingface.co/collections/org/x", "collection"),
            ("https://huggingface.co/papers/2401.00001", "paper"),
            ("https://huggingface.co/org", "two parts"),
            ("https://host.example/f?...", "whole URL"),
            ("url/0123456789abcdef/f.gguf", "give its URL"),
            ("org/name@sha256:" + "ab" * 32, "digest"),
            ("registry.example.io/ai/model", "write https://"),
            ("files.example.com/f.gguf", "write https://"),
            ("localhost:8000/f.gguf", "http://"),
            ("127.0.0.1:8000/sub/f.gguf", "http://"),
            ("nas:9000/models/f.gguf", "http://"),
            ("192.168.1.5/models/f.gguf", "http://"),
            ("C:\\models\\f.gguf", "path of this machine"),
            ("\\\\server\\share\\f.gguf", "path of this machine"),
            (".\\f.gguf", "path of this machine"),
            ("org\\name", "with a slash"),
            ("https://huggingface.co/org/name/discussions/3", "hf:org/name"),
            ("https://huggingface.co/org/name/viewer/x", "hf:org/name"),
            ("https://huggingface.co/gpt2/tree/main", "two parts"),
            ("https://huggingface.co/bert-base-uncased/resolve/main/config.json", "two parts"),
            ("org/name org/other", "hive pull hf:org/name hf:org/other"),
            ("org/name, org/other:Q8_0", "hive pull hf:org/name hf:org/other:Q8_0"),
            ("https://huggingface.co/org/name https://huggingface.co/org/other", "hive pull hf:org/name hf:org/other"),
            ("https://hf.co/org/name/resolve/main/a.gguf,https://hf.co/org/name/resolve/main/b.gguf", "several models"),
        ],
    )
    def test_what_is_no_model_is_refused_with_what_to_do(self, text: str, said: str) -> None:
        with pytest.raises(RefError) as caught:
            parse_ref(text)
        assert said in str(caught.value)

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            *(
                (f"org/name{end}", "hf:org/name")
                for end in (",", ".", ";", "\u2026", ")", '"', "`", "\u3002", "\u200b,")
            ),
            *(
                (f"{start}org/name", "hf:org/name")
                for start in ("'", "<", "(", "- ", "* ", "\u2022 ", "1. ", "3) ", "@")
            ),
            *((f"{label}org/name", "hf:org/name") for label in ("model: ", "Model:", "repo_id=", "FROM ", "--model ")),
            ("see https://huggingface.co/org/name, it is good", "hf:org/name"),
            ("org/name : Q4_K_M", "hf:org/name:Q4_K_M"),
            ("org/name: f.gguf", "hf:org/name/f.gguf"),
            ("org / name@main Q4_K_M", "hf:org/name@main:Q4_K_M"),
            ("org/name (UD-Q4_K_XL)", "hf:org/name:UD-Q4_K_XL"),
            ("org/name\uff1aQ4_K_M", "hf:org/name:Q4_K_M"),
            ("hf\uff1aorg\uff0fname\uff20main", "hf:org/name@main"),
            ("https\uff1a//huggingface.co/org/name", "hf:org/name"),
            ("o\u200brg/na\u00adme\u200e:Q8_0", "hf:org/name:Q8_0"),
            ("https://huggingface\u200b.co/or\u2060g/name/resolve/main/f.gguf", "hf:org/name/f.gguf@main"),
            ("\u202aorg/name\u202c", "hf:org/name"),
            *(
                (f"{a}org/name{b}", "hf:org/name")
                for a, b in ("()", "[]", "{}", "**", "__", "\u201e\u201c", "\u300c\u300d")
            ),
            ("**`org/name`**", "hf:org/name"),
            ("[x](https://huggingface.co/org/name).", "hf:org/name"),
            ("[x](<https://huggingface.co/org/name>)", "hf:org/name"),
            ('[x](https://huggingface.co/org/name "title")', "hf:org/name"),
            ("![x](https://huggingface.co/org/name)", "hf:org/name"),
            ("https://huggingface.co/org/name,", "hf:org/name"),
            ("(https://huggingface.co/org/name/blob/main/f.gguf)", "hf:org/name/f.gguf@main"),
            ("https://host.example/f.gguf,", "https://host.example/f.gguf"),
            ("https://host.example/f?sig=abc,", "https://host.example/f?sig=abc,"),
            ("https://host.example/f(1)", "https://host.example/f(1)"),
            ("hf:org/name/f.gguf,", "hf:org/name/f.gguf,"),
            ("hf:org/name/\uff08a\uff09\uff1a1", "hf:org/name/\uff08a\uff09\uff1a1"),
            ("org%2Fname", "hf:org/name"),
            *((f"{hub}/org/name", "hf:org/name") for hub in ("huggingface.co:443", "huggingface.co.", "//hf.co")),
            *(
                (f"{hub}/org/name", "hf:org/name")
                for scheme in ("https", "http", "HTTPS")
                for hub in (f"{scheme}://huggingface.co:443", f"{scheme}://HuggingFace.co:80", f"{scheme}://hf.co.")
            ),
            ("https:/huggingface.co/org/name", "hf:org/name"),
            ("htps://huggingface.co/org/name", "hf:org/name"),
            ("hf:huggingface.co/org/name", "hf:org/name"),
            ("lmstudio://open_from_hf?model=org/name&file=f.gguf", "hf:org/name/f.gguf"),
            ("~/.cache/huggingface/hub/models--org--name", "hf:org/name"),
            (f"/x/hub/models--org--name/snapshots/{COMMIT}/a/f.gguf", f"hf:org/name/a/f.gguf@{COMMIT}"),
            ("C:\\hub\\models--org--name", "hf:org/name"),
            *((f"{prompt}hf download org/name", "hf:org/name") for prompt in ("> ", "% ", "# ", "!", "\u276f ")),
            ("(venv) user@host:~/x$ hf download org/name f.gguf", "hf:org/name/f.gguf"),
            ("PS C:\\Users\\x> hf download org/name", "hf:org/name"),
            ("```bash\nhf download org/name \\\n  --local-dir x\n```", "hf:org/name"),
            ("git lfs install\ngit clone https://huggingface.co/org/name", "hf:org/name"),
            ("git lfs install && git clone -b dev https://huggingface.co/org/name dir", "hf:org/name@dev"),
            ("pip install -U huggingface_hub; hf download org/name > log 2>&1", "hf:org/name"),
            ("uvx --from huggingface_hub hf download org/name", "hf:org/name"),
            ("lms get org/name@q4_k_m", "hf:org/name:Q4_K_M"),
            ("mlx_lm.generate --model org/name --prompt 'a/b c'", "hf:org/name"),
            ("text-generation-launcher --model-id=org/name", "hf:org/name"),
            ('model = AutoModel.from_pretrained("org/name", revision="v1")', "hf:org/name@v1"),
            ("hf_hub_download(repo_id='org/name', filename='f.gguf')", "hf:org/name/f.gguf"),
            ("from huggingface_hub import x\nsnapshot_download(\n    'org/name',\n)", "hf:org/name"),
        ],
    )
    def test_what_surrounds_it_does_not_matter(self, text: str, expected: str) -> None:
        ref = parse_ref(text)
        assert str(ref) == expected
        assert parse_ref(str(ref)) == ref

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("hive pull org/name org/other", "hive pull org/name org/other"),
            ("hf download org/a && hf download org/b", "hive pull org/a org/b"),
            ("org/name\norg/other", "hive pull hf:org/name hf:org/other"),
            ("org/name\nand more", "one reference at a time"),
            ("hf download org/name --include '*.gguf'", "hive pull org/name --include '*.gguf'"),
            ("hf download org/name a.gguf b.gguf", "hive pull org/name --include a.gguf --include b.gguf"),
            ("/models/f.gguf", "file:///"),
            ("hxxps://host.example/f.gguf", "begins with https://"),
            ("https://user:hf_c4n4ry12@huggingface.co/org/name", "HF_TOKEN"),
            ("https://hf-mirror.com/org/name", "HF_ENDPOINT"),
            ("https://modelscope.cn/models/org/name/summary", "hf:org/name"),
            ("https://ollama.com/user/name", "Ollama's registry"),
            ("org/name?download=true", "names no repository"),
        ],
    )
    def test_what_is_not_clear_is_refused_with_what_to_copy(self, text: str, said: str) -> None:
        with pytest.raises(RefError) as caught:
            parse_ref(text)
        assert said in str(caught.value)
        assert "c4n4ry" not in str(caught.value)

    @pytest.mark.parametrize("end", ["!" * 2000 + ">" * 2000, ">" * 4000 + "!", "!)" * 2000])
    def test_a_text_of_punctuation_takes_no_longer_than_another(self, end: str) -> None:
        began_s = time.process_time()
        with contextlib.suppress(RefError):
            parse_ref(f"org/name{end}")
        assert time.process_time() - began_s < MAX_PARSE_S

    def test_a_host_of_thousands_of_letters_takes_no_longer_than_another(self) -> None:
        began_s = time.process_time()
        with pytest.raises(RefError, match="no host name"):
            parse_ref(f"https://{''.join(map(chr, range(0x4E00, 0x4E00 + 4000)))}/a")
        assert time.process_time() - began_s < MAX_PARSE_S

    def test_a_signature_in_a_pasted_command_is_not_shown(self) -> None:
        with pytest.raises(RefError) as caught:
            parse_ref("wget https://u:p4ss@h.example/a?sig=s3cr3t && wget https://h.example/b?sig=s3cr3t")
        assert "s3cr3t" not in str(caught.value)
        assert "p4ss" not in str(caught.value)

    def test_a_token_in_a_pasted_command_is_not_shown(self) -> None:
        for text in ("HF_TOKEN=hf_c4n4ry123456 hf upload org/name", "hf_c4n4ry123456@huggingface.co/org/name"):
            with pytest.raises(RefError) as caught:
                parse_ref(text)
            assert "c4n4ry" not in str(caught.value)

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("https://hf-mirror.com/org/name", "hf:org/name"),
            ("https://hf-mirror.com/org/name/resolve/main/f.gguf?download=true", "hf:org/name/f.gguf@main"),
            ("https://hf-mirror.com/org/name/tree/main/folder", "hf:org/name/folder/@main"),
            ("https://hf-mirror.com/some/file.gguf", "https://hf-mirror.com/some/file.gguf"),
            ("https://hf-mirror.com/file.gguf", "https://hf-mirror.com/file.gguf"),
            ("hf-mirror.com/org/name", "hf:org/name"),
            ("hf-mirror.com/org/name/blob/refs/pr/1/f.gguf", "hf:org/name/f.gguf@refs/pr/1"),
            ("https://other.example/org/name", "https://other.example/org/name"),
            ("https://huggingface.co/org/name", "hf:org/name"),
        ],
    )
    def test_the_address_of_a_mirror_is_the_hub_s_where_it_is_set(self, text: str, expected: str) -> None:
        assert str(parse_ref(text, "https://hf-mirror.com")) == expected

    def test_without_the_setting_a_mirror_is_any_server(self) -> None:
        assert parse_ref("https://hf-mirror.com/org/name/resolve/main/f.gguf").kind == "url"


class TestUrls:
    """Plain URLs."""

    @pytest.mark.parametrize(
        ("text", "url"),
        [
            ("https://host.example/a/b.gguf", "https://host.example/a/b.gguf"),
            ("HTTPS://Host.Example/A", "https://host.example/A"),
            ("https://host.example", "https://host.example/"),
            ("https://host.example:443/a", "https://host.example/a"),
            ("http://host.example:80/a", "http://host.example/a"),
            ("http://host.example:8080/a", "http://host.example:8080/a"),
            ("https://host.example/a?b=c&d=%20#fragment", "https://host.example/a?b=c&d=%20"),
            ("http://[::1]:8000/a", "http://[::1]:8000/a"),
            ("http://127.0.0.1/a", "http://127.0.0.1/a"),
            ("file:///models/my%20file.gguf", "file:///models/my%20file.gguf"),
            ("file:///models/my file.gguf", "file:///models/my%20file.gguf"),
            ("file://localhost/models/f.gguf", "file:///models/f.gguf"),
            ("https://huggingface.co:8443/org/name", "https://huggingface.co:8443/org/name"),
        ],
    )
    def test_a_url_is_rebuilt_from_its_parts(self, text: str, url: str) -> None:
        assert parse_ref(text) == ModelRef(kind="url", url=url)

    @pytest.mark.parametrize(
        ("pasted", "url"),
        [
            ("  https://host.example/a.gguf\n", "https://host.example/a.gguf"),
            ("\u00a0\ufeffhttps://host.example/a.gguf\u200b", "https://host.example/a.gguf"),
            ("https://host.example/my model (1).gguf", "https://host.example/my%20model%20(1).gguf"),
            ("https://host.example/\u6a21\u578b.gguf", "https://host.example/%E6%A8%A1%E5%9E%8B.gguf"),
            ("https://host.example/a%20b c.gguf", "https://host.example/a%20b%20c.gguf"),
            ("https://host.example/f?name=\u00e4 b", "https://host.example/f?name=%C3%A4%20b"),
            ("http://h\u00f6st.example/f", "http://xn--hst-sna.example/f"),
            ("https://B\u00dccher.Example:8443/f", "https://xn--bcher-kva.example:8443/f"),
            ("https://\u4f8b\u3048.\u30c6\u30b9\u30c8/f", "https://xn--r8jz45g.xn--zckzah/f"),
            ("https://host\u200b.example/f", "https://host.example/f"),
            ("https://\u0445\u0430\u0431.example/f", "https://xn--80ac2d.example/f"),
        ],
    )
    def test_a_pasted_url_gets_its_percent_encoding(self, pasted: str, url: str) -> None:
        ref = parse_ref(pasted)
        assert ref.url == url
        assert parse_ref(str(ref)) == ref

    @pytest.mark.parametrize(
        "text",
        [
            "https://",
            "https:///path",
            "https:path",
            "http://good\\@127.0.0.1/",
            "http://user@host.example/",
            "http://user:password@host.example/",
            "http://host.example:99999/",
            "http://host.example:0/",
            "http://host.example:x/",
            "http://ho st.example/",
            "http://h\u00f6st\u2603.example/",
            "http://fa\u00df.example/",
            "https://huggingf\u0430ce.co/org/name",
            "https://\uff48uggingface.co/org/name",
            "https://huggingface\u3002co/org/name",
            "http://\u2460\u2461\u2466.0.0.1/",
            "http://127\u30020\u30020\u30021/",
            "http://\uff11\uff12\uff17.0.0.1/",
            "http://host.example\t/",
            "http://[::1/",
            "http://[fe80::1%25eth0]/",
            "http://host.example/\r\nHost: other",
        ],
    )
    def test_what_two_parsers_could_read_differently_is_refused(self, text: str) -> None:
        with pytest.raises(RefError):
            parse_ref(text)

    def test_the_query_is_not_shown_and_can_be_taken_off_and_put_back(self) -> None:
        ref = parse_ref("https://host.example/a?signature=secret")

        assert ref.display == "https://host.example/a?..."
        assert without_query(ref).url == "https://host.example/a"
        assert without_query(ref).display == "https://host.example/a"
        assert with_query(without_query(ref), "signature=secret") == ref
        assert with_query(ref, None) == ref
        assert without_query(parse_ref("org/name")) == parse_ref("org/name")


class TestIdentity:
    """Which requests are one download."""

    def test_the_default_revision_and_the_order_of_patterns_make_no_difference(self) -> None:
        assert dedup_key(parse_ref("org/name")) == dedup_key(parse_ref("hf:org/name@main"))
        assert dedup_key(parse_ref("org/name"), ("a", "b")) == dedup_key(parse_ref("org/name"), ("b", "a", "b"))

    @pytest.mark.parametrize(
        ("text", "key"),
        [
            ("hf:org/name", "3739df403dbade7f"),
            ("org/name", "3739df403dbade7f"),
            ("hf:org/name@main", "3739df403dbade7f"),
            ("hf:org/name@v1.0:Q4_K_M", "5913821679617885"),
            ("hf:org/name:q4_k_m", "b06620a6ec8a811b"),
            ("hf:org/name:UD-Q4_K_XL", "d6803b0441c046b0"),
            ("hf:org/name/a/b.gguf", "d4d960da783428d3"),
            ("hf:org/name/a.gguf@v1.0", "12a1af5edd0069f0"),
            ("hf:org/name/a@2x.gguf@main", "cedaebfdab153b27"),
            ("hf.co/org/name:Q4_K_M", "b06620a6ec8a811b"),
            ("huggingface.co/org/name/folder/f.json", "9ddffc1984091d31"),
            ("hf:org/name@refs/pr/1:IQ1_S", "66f7fed19e6b91bc"),
            ("hf:org/name/my model.gguf", "8eb91629e5d9d22a"),
            ("https://huggingface.co/org/name/resolve/main/a/b.gguf?download=true", "d4d960da783428d3"),
            ("https://huggingface.co/org/name/blob/refs%2Fpr%2F1/my%20model.gguf", "01ae0cfbc2dd71b2"),
            ("https://host.example/a/b.gguf?x=1", "aa82279f1d07160e"),
            ("hf:org/name/folder/file@release/v1.2", "9d79121dc6ce31cb"),
            ("hf:org/name@0123456789abcdef0123456789abcdef01234567", "14b03597e73bfe1c"),
            ("hf:org/name:some.name_1", "b8dbf432d463ac9e"),
        ],
    )
    def test_the_key_of_a_reference_does_not_change_between_versions(self, text: str, key: str) -> None:
        """Downloads that are under way while hive is updated are joined under it."""
        assert dedup_key(parse_ref(text)).startswith(key)

    def test_everything_else_does(self) -> None:
        refs = [
            "org/name",
            "org/name@v1",
            "org/name:Q4_K_M",
            "org/name/a.gguf",
            "org/other",
            "https://h/a",
            "https://h/a?b",
        ]
        found = [dedup_key(parse_ref(ref)) for ref in refs]
        found += [dedup_key(parse_ref("org/name"), ("a",)), dedup_key(parse_ref("org/name"), (), ("a",))]
        found += [dedup_key(parse_ref("https://h/a"), sha256="ab" * 32)]

        assert len(set(found)) == len(found)
        assert all(len(key) == 64 for key in found)


class TestPaths:
    """Paths that are put below a folder."""

    @pytest.mark.parametrize(
        "path",
        [
            "a",
            "a/b/c.json",
            ".gitattributes",
            "a b",
            "aux/x.json",
            "nul.py",
            "CON",
            "COM1.log",
            "a.",
            "a ",
            "caf\u00e9.gguf",
            "-rf",
            "x" * 255,
        ],
    )
    def test_a_path_that_is_safe_stays_as_it_is(self, path: str) -> None:
        assert check_path(path) == path

    @pytest.mark.parametrize(
        "path",
        [
            "",
            "/",
            "/etc/passwd",
            "a//b",
            "a/",
            ".",
            "..",
            "a/../b",
            "a/./b",
            "...",
            "a/. ./b",
            "a\\b",
            "a\x00b",
            "a\nb",
            "a\x7fb",
            ".git/hooks/post-checkout",
            "a/.GIT/config",
            "x" * 256,
            "/".join("x" * 200 for _ in range(6)),
            "\ud800",
        ],
    )
    def test_a_path_that_could_lead_elsewhere_is_refused(self, path: str) -> None:
        with pytest.raises(RefError):
            check_path(path)

    @given(st.text(max_size=100))
    def test_no_accepted_path_leaves_its_folder(self, path: str) -> None:
        if path_problem(path) is None:
            parts = PurePosixPath("/root", path).parts
            assert parts[:2] == ("/", "root")
            assert len(parts) == 3 + path.count("/")
            assert ".." not in parts
