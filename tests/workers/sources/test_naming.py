"""What a plain URL's file is called: RFC 6266, the last address, and no name that leads elsewhere."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hive.store.layout import safe_name
from hive.wire.refs import MAX_SEGMENT_BYTES, path_problem
from workers.sources.naming import disposition_name, name_of, name_of_url
from workers.transfer import Served

URL = "https://host.example/files/by-url.gguf"


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ('attachment; filename="model.gguf"', "model.gguf"),
        ("attachment; filename=model.gguf", "model.gguf"),
        ("ATTACHMENT; FILENAME=model.gguf", "model.gguf"),
        ("inline; filename=my model.gguf; size=3", "my model.gguf"),
        ('attachment;filename="a;b.gguf"', "a_b.gguf"),
        (r'attachment; filename="a\"b.gguf"', "a_b.gguf"),
        ("attachment; filename*=UTF-8''%E6%A8%A1%E5%9E%8B.gguf", "模型.gguf"),
        ("attachment; filename=\"old.gguf\"; filename*=UTF-8''new.gguf", "new.gguf"),
        ("attachment; filename*=UTF-8''new.gguf; filename=\"old.gguf\"", "new.gguf"),
        ("attachment; filename*=iso-8859-1'en'caf%E9.gguf", "café.gguf"),
        ("attachment; filename*=UTF-8''%FF%FE.gguf; filename=plain.gguf", "plain.gguf"),
        ("attachment; filename*=klingon''x.gguf; filename=plain.gguf", "plain.gguf"),
        ('attachment; filename="café.gguf"'.encode().decode("latin-1"), "café.gguf"),
        ('attachment; filename="caf\xe9.gguf"', "café.gguf"),
        ('attachment; filename="my%20model.gguf"', "my model.gguf"),
        ('attachment; filename="first.gguf"; filename="second.gguf"', "first.gguf"),
        ('filename="no-type.gguf"', "by-url.gguf"),
        ("attachment", "by-url.gguf"),
        ("", "by-url.gguf"),
        ('attachment; filename=""', "by-url.gguf"),
        ('attachment; filename="../../etc/x"', "x"),
        ('attachment; filename="/etc/passwd"', "passwd"),
        (r'attachment; filename="C:\models\x.gguf"', "x.gguf"),
        ("attachment; filename*=UTF-8''..%2F..%2Fetc%2Fx", "x"),
        ("attachment; filename*=UTF-8''a%00b%0Ac%1B%5B31m.gguf", "a_b_c_[31m.gguf"),
        ("attachment; filename*=UTF-8''a%E2%80%AEfugg.exe", "a_fugg.exe"),
        ('attachment; filename=".."', "by-url.gguf"),
        ('attachment; filename="."', "by-url.gguf"),
        ('attachment; filename="CON"', "by-url.gguf"),
        ('attachment; filename="nul.gguf"', "by-url.gguf"),
        ('attachment; filename="manifest.json"', "by-url.gguf"),
        ('attachment; filename="Manifest.JSON"', "by-url.gguf"),
        (f'attachment; filename="{"x" * 300}.gguf"', "x" * 250 + ".gguf"),
        (f"attachment; filename*=UTF-8''{'%E6%A8%A1' * 100}.safetensors", "模" * 81 + ".safetensors"),
        ('attachment; filename="unclosed.gguf', "unclosed.gguf"),
        ('attachment; filename="unclosed.gguf; size=3', "unclosed.gguf"),
        ('attachment; filename=trailing.gguf"', "trailing.gguf"),
        ('attachment; filename="=?UTF-8?B?5qih5Z6LLmdndWY=?="', "模型.gguf"),
        ("attachment; filename==?utf-8?Q?caf=C3=A9.gguf?=", "café.gguf"),
        ("attachment; filename=\"=?klingon?B?AAAA?=\"; filename*=UTF-8''real.gguf", "real.gguf"),
        ('attachment; filename="=?UTF-8?B?Li4vLi4vZXRjL3g=?="', "x"),
        ("attachment; filename*=utf8''%E6%A8%A1.gguf", "模.gguf"),
        ("attachment; filename*=\"UTF-8''new.gguf\"", "new.gguf"),
        ("attachment; filename*=GBK'zh'%C4%A3%D0%CD.gguf", "模型.gguf"),
        ('attachment; filename*="no-charset.gguf"', "no-charset.gguf"),
        ('attachment; filename*0="long-"; filename*1="name.gguf"', "long-name.gguf"),
        ("attachment; filename*0*=UTF-8''%E6%A8%A1; filename*1=.gguf", "模.gguf"),
        ("attachment; filename=" + "y" * 100_000, "y" * 255),
    ],
)
def test_content_disposition_names_the_file(header: str, name: str) -> None:
    assert name_of(Served(URL, disposition=header), "asked.gguf") == name


@pytest.mark.parametrize(
    ("last", "asked", "name"),
    [
        ("https://cdn.example/v2/model-v2.gguf?sig=1", "latest.gguf", "model-v2.gguf"),
        ("https://cdn.example/", "latest.gguf", "latest.gguf"),
        ("https://cdn.example/blobs/ab12cd", "latest.gguf", "latest.gguf"),
        ("https://cdn.example/blobs/model", "latest", "model"),
        ("https://cdn.example/%E6%A8%A1%E5%9E%8B.gguf", "latest", "模型.gguf"),
        ("https://cdn.example/a%2f..%2f..%2fetc%2fpasswd", "latest", "passwd"),
    ],
)
def test_without_it_the_last_address_names_the_file(last: str, asked: str, name: str) -> None:
    assert name_of(Served(last), asked) == name


@pytest.mark.parametrize(
    "name",
    [
        *("CON", "nul.gguf", "Aux .gguf", "com1.tar.gz", "LPT9", "COM0.gguf", "COM\xb9.gguf", "com\xb2", "lpt\xb3.bin"),
        *("manifest.json", "MANIFEST.JSON", "manife\u017ft.j\u017fon", "Manifest.json.", " manifest.json"),
    ],
)
def test_a_name_that_some_system_takes_for_another_thing_is_not_kept(name: str) -> None:
    """Windows' devices, and hive's own file beside the model, as filesystems compare names."""
    assert safe_name(name) == "download"


@given(st.text(max_size=600))
def test_no_name_leads_elsewhere(text: str) -> None:
    for name in (safe_name(text), name_of(Served(URL, disposition=f'attachment; filename="{text}"'), "asked.gguf")):
        assert path_problem(name) is None
        assert "/" not in name
        assert len(name.encode()) <= MAX_SEGMENT_BYTES
        assert safe_name(name) == name


@given(st.binary(max_size=300))
def test_no_header_is_too_much(header: bytes) -> None:
    name = disposition_name(header.decode("latin-1"))
    assert name is None or "/" not in name


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://h/dl?filename=a.gguf", "a.gguf"),
        ("https://h/dl?id=1&FileName=my%20model.GGUF&x=2", "my model.GGUF"),
        ("https://h/get.php?file=../../etc/x.bin", "x.bin"),
        ("https://h/get.php?file=C:%5Cmodels%5Cx.pt", "x.pt"),
        (
            "https://h/o/1f3a?response-content-disposition=attachment%3B%20filename%3D%22real.safetensors%22",
            "real.safetensors",
        ),
        ("https://h/o/1f3a?rscd=attachment%3B+filename*%3DUTF-8%27%27%25E6%25A8%25A1.gguf", "\u6a21.gguf"),
        ("https://h/a.gguf/download", "a.gguf"),
        ("https://h/a.gguf/", "a.gguf"),
        ("https://h/b.gguf?filename=a.gguf", "b.gguf"),
        ("https://h/get.php?file=x.exe", "get.php"),
        ("https://h/dl?filename=", "dl"),
        ("https://h/dl?" + "&".join("filename=a.gguf" for _ in range(200)), "dl"),
        ("https://h/folder/", "download"),
    ],
)
def test_an_address_says_the_name_also_in_its_query(url: str, name: str) -> None:
    assert name_of_url(url) == name
