"""Addresses of objects in buckets, and which of them a list of buckets allows."""

from __future__ import annotations

import pytest

from hive.settings import Settings, SettingsError
from hive.wire.buckets import allows, bucket_of, parts_of
from hive.wire.refs import RefError, dedup_key, parse_ref


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("s3://bucket/file.gguf", "s3://bucket/file.gguf"),
        ("  `S3://bucket/a/b c.gguf`\n", "s3://bucket/a/b%20c.gguf"),
        ("gs://my_bucket.eu/a=1/ä.gguf", "gs://my_bucket.eu/a=1/%C3%A4.gguf"),
        ("az://container/%61%2F%25%3F.gguf", "az://container/a/%25%3F.gguf"),
        ("s3://bucket/ends.with,", "s3://bucket/ends.with%2C"),
    ],
)
def test_an_object_has_one_spelling_which_is_read_as_itself(text: str, url: str) -> None:
    ref = parse_ref(text)
    assert (ref.kind, ref.url, ref.is_object, ref.display) == ("url", url, True, url)
    assert parse_ref(str(ref)) == ref
    assert dedup_key(ref) != dedup_key(parse_ref("s3://other/file.gguf"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("s3://bucket", "Name one object of it: s3://bucket/path/file.gguf"),
        ("s3://bucket/folder/", "lists no buckets"),
        ("s3://b/x", "without a key or a port"),
        ("s3://user:canary@bucket/x", "without a key or a port"),
        ("s3://bucket:80/x", "without a key or a port"),
        ("s3:///x", "without a key or a port"),
        ("gs://bu..cket/x", "without a key or a port"),
        ("s3://bucket/a?X-Amz-Signature=canary", "%3F"),
        ("s3://bucket/a#b", "%3F"),
        ("s3://bucket/../secret", "segments"),
        ("s3://bucket/%2e%2e/secret", "segments"),
        ("s3://bucket/a//b", "segments"),
        ("s3://bucket/a%00b", "control characters"),
        ("s3://bucket/%ff", "UTF-8"),
        (f"s3://bucket/{'a' * 1025}", "1024 bytes"),
        ("s3:bucket/key", "not a scheme"),
    ],
)
def test_what_names_no_object_is_refused_with_what_to_write(text: str, said: str) -> None:
    with pytest.raises(RefError, match=said) as refused:
        parse_ref(text)
    assert "canary" not in str(refused.value)


def test_an_object_in_parts() -> None:
    url = parse_ref("s3://bucket/a%20b/c%25.gguf").url or ""
    assert (bucket_of(url), parts_of(url)) == ("s3://bucket", ("s3", "bucket", "a b/c%.gguf"))


@pytest.mark.parametrize(
    ("setting", "url", "allowed"),
    [
        ("", "s3://bucket/x", False),
        ("s3://bucket", "s3://bucket/x", True),
        ("s3://other, s3://bucket/", "s3://bucket/a/x", True),
        ("s3://bucket", "s3://bucket2/x", False),
        ("s3://bucket", "gs://bucket/x", False),
        ("s3://bucket/models", "s3://bucket/models/x", True),
        ("s3://bucket/models/", "s3://bucket/models/a/x", True),
        ("s3://bucket/models/", "s3://bucket/models2/x", False),
        ("s3://bucket/my models/", "s3://bucket/my%20models/x", True),
        ("s3://bucket/a.gguf", "s3://bucket/a.gguf", True),
    ],
)
def test_a_list_of_buckets_is_matched_by_whole_segments(setting: str, url: str, allowed: bool) -> None:
    assert allows(setting, url) is allowed


@pytest.mark.parametrize("setting", ["bucket", "s3://", "*", "https://bucket/x", "s3://bucket/../x"])
def test_a_list_that_names_something_else_ends_the_start(setting: str) -> None:
    with pytest.raises(SettingsError, match="HIVE_BUCKETS cannot be used"):
        Settings.from_env({"HIVE_BUCKETS": setting})
