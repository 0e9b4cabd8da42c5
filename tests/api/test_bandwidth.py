"""The fleet's limit: over HTTP, from Python, from the command line."""

from __future__ import annotations

from typing import Any

import pytest
import requests

from hive.cli import run
from hive.cli.errors import CliError
from hive.cli.limits import bytes_per_second
from hive.client import AsyncClient, Client
from hive.downloads.context import DownloadContext
from hive.redis.client import RedisClient


def test_it_is_none_until_it_is_set_and_none_again_when_it_is_off(api: str) -> None:
    url = f"{api}/v1/settings/bandwidth"
    assert requests.get(url, timeout=60).json() == {"bytes_per_second": None}
    assert requests.put(url, json={"bytes_per_second": 40_000_000}, timeout=60).json() == {
        "bytes_per_second": 40_000_000
    }
    assert requests.get(url, timeout=60).json() == {"bytes_per_second": 40_000_000}
    assert requests.put(url, json={"bytes_per_second": None}, timeout=60).json() == {"bytes_per_second": None}
    assert requests.get(url, timeout=60).json() == {"bytes_per_second": None}


@pytest.mark.parametrize(
    "body", [{}, {"bytes_per_second": 0}, {"bytes_per_second": 65_535}, {"bytes_per_second": "1M"}, {"other": 1}, []]
)
def test_a_body_of_another_form_changes_nothing(api: str, body: Any) -> None:
    url = f"{api}/v1/settings/bandwidth"
    requests.put(url, json={"bytes_per_second": 1_000_000}, timeout=60)
    answer = requests.put(url, json=body, timeout=60)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "INVALID_REQUEST")
    assert requests.get(url, timeout=60).json() == {"bytes_per_second": 1_000_000}


@pytest.mark.anyio
async def test_both_clients_read_and_set_it(api: str) -> None:
    with Client(api) as client:
        assert client.bandwidth() is None
        assert client.set_bandwidth(1_000_000) == 1_000_000
    async with AsyncClient(api) as client_:
        assert await client_.bandwidth() == 1_000_000
        assert await client_.set_bandwidth(None) is None


def test_the_command_line_reads_and_sets_it(
    api: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HIVE_HOST", api)
    for args, said in (
        ((), "no limit"),
        (("40MB/s",), "40.0 MB/s"),
        ((), "40.0 MB/s"),
        (("off",), "no limit"),
        ((), "no limit"),
    ):
        assert run(["limit", *args]) == 0
        assert capsys.readouterr().out == f"bandwidth  {said}\ndownloads  no limit\n"
    assert run(["limit", "--downloads", "3"]) == 0
    assert capsys.readouterr().out == "bandwidth  no limit\ndownloads  3 at once\n"
    assert run(["limit", "--downloads", "off"]) == 0
    assert capsys.readouterr().out == "bandwidth  no limit\ndownloads  no limit\n"
    for wrong in ("0.5", "-1", "many"):
        assert run(["limit", f"--downloads={wrong}"]) == 2
        assert "1 to 100000" in capsys.readouterr().err
    assert run(["limit", "fast"]) == 2
    assert "40MB/s" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("40MB/s", 40_000_000),
        ("40m", 40_000_000),
        ("2.5M", 2_500_000),
        ("800k", 800_000),
        ("1GiB/s", 1 << 30),
        ("1 gb", 10**9),
        ("64Ki", 65_536),
        ("65536", 65_536),
        ("off", None),
        ("0", None),
    ],
)
def test_rates_are_read_as_people_write_them(text: str, rate: int | None) -> None:
    assert bytes_per_second(text) == rate


@pytest.mark.parametrize("text", ["", "fast", "-1M", "1e6", "1X", "10", "65535", "M", "1.2.3M"])
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(CliError):
        bytes_per_second(text)


def test_the_limit_of_one_download_stands_in_its_record(
    api: str, store: RedisClient, downloads: DownloadContext
) -> None:
    with Client(api) as client:
        limited = client.download("hf:org/limited", max_bytes_per_second=2_000_000)
        free = client.download("hf:org/free")
    for started, limit in ((limited, 2_000_000), (free, None)):
        record = downloads.tracker.read(started.download_id)
        assert record is not None
        assert record.request.max_bytes_per_second == limit
