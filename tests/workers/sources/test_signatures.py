"""Signatures as the stores' own libraries make them: azure-storage-blob 12.31 and botocore 1.44 made those below.

Google's are compared with a public key in test_bucket.py.
"""

from __future__ import annotations

from urllib.parse import parse_qsl, urlsplit

from workers.sources.signatures import signed_for_azure, signed_for_checksum

PATH = "a%20b/c%2B%3D%28%271%27%29%26%C3%A9%2C%25/m.gguf"


def query_of(url: str | None) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(url or "").query))


def test_a_blob_is_signed_by_its_name_and_without_a_beginning_wherever_the_account_stands() -> None:
    asked = "?sp=r&sr=b&st=2029-01-01T00%3A00%3A00Z&se=2030-01-01T00%3A00%3A00Z&sv=2020-12-06&sig=x"
    for place in ("account.blob.core.windows.net", "10.0.0.1:10000/account", "models.example.org"):
        signed = query_of(signed_for_azure(f"https://{place}/c/{PATH}{asked}", "account", "a2V5a2V5"))
        assert signed == {
            "sp": "r",
            "sr": "b",
            "se": "2030-01-01T00:00:00Z",
            "sv": "2023-11-03",
            "sig": "fHB9Eixj3mGM58KWbGT8aP9Ho2RQ6ybtezSpZ6/Cg6o=",
        }


def test_a_checksum_of_s3s_is_asked_for_by_a_header_that_is_signed() -> None:
    asked = "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKID%2F20300101%2Feu-west-1%2Fs3%2Faws4_request"
    asked += (
        "&X-Amz-Date=20300101T000000Z&X-Amz-Expires=3600&X-Amz-SignedHeaders=host&X-Amz-Security-Token=tok%2F%2B%3D%3D"
    )
    url = f"https://s3.eu-west-1.amazonaws.com/bucket/{PATH}?{asked}&X-Amz-Signature=0"
    signed = query_of(signed_for_checksum(url, "AKID", "SE/CR+ET"))
    assert signed["X-Amz-SignedHeaders"] == "host;x-amz-checksum-mode"
    assert signed["X-Amz-Signature"] == "18897b7e42aadcf4d6ddc57505c45ea724c929f61977814dad6f534d6612ee1f"
    # Another key than that of the environment has signed: a role's.
    assert signed_for_checksum(url, "ANOTHER", "SE/CR+ET") is None
