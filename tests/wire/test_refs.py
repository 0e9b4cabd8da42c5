"""References: read once, rebuilt from their parts, and refused when two parsers could read them differently."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest
from hypothesis import given
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
            ("https://huggingface.co/org/name/tree/v1.0/folder", ModelRef(repo="org/name", revision="v1.0")),
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
            "hf:org/name/",
            "hf:org/name@",
            "hf:org/name:",
            "hf:org/name@main:",
            "hf:org/name/file.gguf:Q4_K_M",
            "hf:../name",
            "hf:org/..",
            "hf:org/na--me",
            "hf:org/name.git",
            "hf:org/.name",
            "hf:org/name/../secret",
            "hf:org/name//etc/passwd",
            "hf:org/name/.git/config",
            "hf:org/name@../../x",
            "hf:org/name@a//b",
            "hf:org/name@-rf",
            "hf:org/name@x.lock",
            "hf:org/na me",
            " hf:org/name",
            "hf:org/name ",
            "hf:org/name@a b",
            "hf:org/name\n",
            "hf:org\\name",
            "hf:org/name\x00",
            "hf:org/n\u00e4me",
            "hf:org/name:Q4 K M",
            "file:///etc/passwd",
            "ftp://host.example/f",
            "s3:bucket/key",
            "ollama:llama3",
            "https://huggingface.co/org",
            "https://huggingface.co/datasets/org/name",
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
            # A path may hold '@' and ':', so it is written with its revision and without a quantisation.
            revision, quant = revision or "main", None
        ref = ModelRef(repo=f"{org}/{name}", revision=revision, path=path, quant=quant)

        assert parse_ref(str(ref)) == ref

    @given(st.text(max_size=200))
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
            "http://h\u00f6st.example/",
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

    @pytest.mark.parametrize("path", ["a", "a/b/c.json", ".gitattributes", "a b", "caf\u00e9.gguf", "-rf", "x" * 255])
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
            "a\\b",
            "a\x00b",
            "a\nb",
            "a\x7fb",
            ".git/hooks/post-checkout",
            "a/.GIT/config",
            "CON",
            "con.txt",
            "a/NUL",
            "COM1.log",
            "a.",
            "a ",
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
