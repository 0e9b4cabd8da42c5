"""Each fault does what it says, to whom it is meant for, and as often as it was told."""

import gzip
import socket
import time
from email.utils import parsedate_to_datetime

import pytest

from tests.hub import HubServer, Rule, SyntheticFile, faults, listings
from tests.hub.content import read_all
from tests.hub.faults import Fault
from tests.hub.fixtures import hub as hub
from tests.hub.probe import probe
from tests.support.waiting import AT_ONCE_S

CONTENT = SyntheticFile(300_000, seed=3)
DATA = read_all(CONTENT)

#: What is asked for where a part is wanted, and what is right then.
PART = {"Range": "bytes=1000-2999"}
RIGHT_PART = DATA[1000:3000]


@pytest.fixture
def url(hub: HubServer) -> str:
    """A plain file."""
    return hub.plain("f.bin", CONTENT)


def strike(hub: HubServer, fault: Fault, count: int | None = 1) -> Rule:
    """Switch a fault on for that file."""
    return hub.faults.add(fault, "/f.bin", count=count)


def receive_all(client: socket.socket, into: bytearray) -> None:
    """Read in small pieces until the end. Raises ConnectionResetError."""
    while piece := client.recv(1_000):
        into += piece


def await_end_of_connections(hub: HubServer, within_s: float) -> bool:
    """Whether the hub has no connection any more within that time."""
    deadline = time.monotonic() + within_s
    while hub.connections and time.monotonic() < deadline:
        time.sleep(0.005)
    return hub.connections == 0


def test_a_cut_resets_the_connection_after_exactly_so_many_bytes(hub: HubServer, url: str) -> None:
    strike(hub, faults.cut(after_bytes=123_456))
    got = probe(url)
    assert (got.status, got.ending) == (200, "reset")
    assert got.headers["content-length"] == str(CONTENT.size)
    assert got.body == DATA[:123_456]
    assert probe(url).body == DATA
    assert [hit.bytes_sent for hit in hub.hits("/f.bin")] == [123_456, CONTENT.size]


def test_a_cut_loses_nothing_of_what_came_before_it_to_a_slow_reader(hub: HubServer, url: str) -> None:
    strike(hub, faults.cut(after_bytes=200_000))
    host, _, port = hub.endpoint.removeprefix("http://").partition(":")
    with socket.socket() as client:
        # So small a window that most of the body still waits in the server's kernel when the cut comes.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        client.settimeout(60)
        client.connect((host, int(port)))
        client.sendall(b"GET /f.bin HTTP/1.1\r\nHost: hub\r\n\r\n")
        # Not a byte is read before the server has handed over everything, and it must wait for that.
        hub.log.wait_for("/f.bin", sent_bytes=200_000)
        await_end_of_connections(hub, within_s=0.2)
        received = bytearray()
        with pytest.raises(ConnectionResetError):
            receive_all(client, received)
    assert received.partition(b"\r\n\r\n")[2] == DATA[:200_000]


def test_a_cut_at_an_offset_strikes_the_part_that_holds_it(hub: HubServer, url: str) -> None:
    rule = strike(hub, faults.cut(at_offset=2_500))
    assert probe(url, headers={"Range": "bytes=5000-"}).ending == "complete"
    assert rule.struck == 0
    got = probe(url, headers=PART)
    assert (got.body, got.ending) == (DATA[1000:2500], "reset")
    assert rule.struck == 1


def test_a_short_body_closes_in_good_order_before_the_promised_length(hub: HubServer, url: str) -> None:
    strike(hub, faults.short_body(after_bytes=777))
    got = probe(url, headers=PART)
    assert (got.status, got.ending, got.body) == (206, "short", RIGHT_PART[:777])
    assert got.headers["content-length"] == "2000"


def test_a_truncated_reply_is_well_formed_and_lacks_the_end(hub: HubServer, url: str) -> None:
    strike(hub, faults.truncate(50), count=2)
    part, whole = probe(url, headers=PART), probe(url)
    assert (part.status, part.ending, part.body) == (206, "complete", RIGHT_PART[:-50])
    assert part.headers["content-range"] == f"bytes 1000-2949/{CONTENT.size}"
    assert (whole.status, whole.ending, whole.body) == (200, "complete", DATA[:-50])


def test_a_stall_stops_for_a_while_and_goes_on(hub: HubServer, url: str) -> None:
    strike(hub, faults.stall(after_bytes=1_000, seconds=0.3))
    got = probe(url)
    assert got.body == DATA
    gaps = [late - early for early, late in zip(got.at_s, got.at_s[1:], strict=False)]
    assert max(gaps) > 0.25


def test_a_stall_outlasts_a_client_that_gives_up_and_then_its_thread_ends(hub: HubServer, url: str) -> None:
    strike(hub, faults.stall(after_bytes=1_000))
    got = probe(url, timeout_s=0.2)
    assert (got.ending, got.body) == ("silent", DATA[:1_000])
    assert await_end_of_connections(hub, within_s=5)


def test_a_trickle_is_as_slow_as_asked(hub: HubServer, url: str) -> None:
    strike(hub, faults.trickle(600_000))
    began = time.monotonic()
    assert probe(url).body == DATA
    assert 0.4 < time.monotonic() - began < AT_ONCE_S


def test_a_wrong_byte_is_one_flipped_bit_in_whatever_carries_it(hub: HubServer, url: str) -> None:
    rule = strike(hub, faults.wrong_byte(1_500), count=2)
    part, beside, whole = probe(url, headers=PART), probe(url, headers={"Range": "bytes=1501-"}), probe(url)
    assert [at for at in range(2_000) if part.body[at] != RIGHT_PART[at]] == [500]
    assert beside.body == DATA[1501:]
    assert whole.body == DATA[:1500] + bytes([DATA[1500] ^ 1]) + DATA[1501:]
    assert rule.struck == 2
    assert probe(url).body == DATA


def test_a_wrong_byte_may_be_permanent(hub: HubServer, url: str) -> None:
    rule = strike(hub, faults.wrong_byte(0), count=None)
    assert {probe(url).body == DATA for _ in range(3)} == {False}
    hub.faults.remove(rule)
    assert probe(url).body == DATA


def test_no_range_gives_the_whole_to_who_asks_for_a_part(hub: HubServer, url: str) -> None:
    rule = strike(hub, faults.no_range())
    assert probe(url).status == 200
    assert rule.struck == 0
    got = probe(url, headers=PART)
    assert (got.status, got.body) == (200, DATA)
    assert "accept-ranges" not in got.headers
    assert probe(url, headers=PART).status == 206


def test_a_wrong_range_is_a_206_from_elsewhere(hub: HubServer, url: str) -> None:
    strike(hub, faults.wrong_range(shift_bytes=100))
    got = probe(url, headers=PART)
    assert (got.status, got.body) == (206, DATA[1100:3100])
    assert got.headers["content-range"] == f"bytes 1100-3099/{CONTENT.size}"


def test_a_wrong_total_is_a_206_of_another_file(hub: HubServer, url: str) -> None:
    strike(hub, faults.wrong_range(total_shift_bytes=-1))
    got = probe(url, headers=PART)
    assert got.headers["content-range"] == f"bytes 1000-2999/{CONTENT.size - 1}"
    assert got.body == RIGHT_PART


def test_a_status_comes_with_its_headers_and_text(hub: HubServer, url: str) -> None:
    strike(hub, faults.status(503, {"Retry-After": "7"}, "busy"), count=2)
    for _ in range(2):
        got = probe(url)
        assert (got.status, got.headers["retry-after"], got.body) == (503, "7", b"busy")
    assert probe(url).status == 200


def test_too_many_requests_says_when_to_come_back_in_seconds_as_a_date_or_as_the_hub_does(
    hub: HubServer, url: str
) -> None:
    strike(hub, faults.too_many_requests(30))
    strike(hub, faults.too_many_requests(30, as_date=True))
    strike(hub, faults.too_many_requests(reset_s=55))
    began_s = time.time()
    seconds, date, ratelimit = (probe(url) for _ in range(3))
    assert {seconds.status, date.status, ratelimit.status} == {429}
    assert seconds.headers["retry-after"] == "30"
    back_s = parsedate_to_datetime(date.headers["retry-after"]).timestamp()
    assert began_s + 29 <= back_s <= time.time() + 31
    assert ratelimit.headers["ratelimit"] == '"api";r=0;t=55'
    assert "retry-after" not in ratelimit.headers


def test_other_content_has_another_validator_and_the_same_size_unless_told(hub: HubServer, url: str) -> None:
    before = probe(url)
    strike(hub, faults.other_content())
    strike(hub, faults.other_content(b"short"))
    same_size, short = probe(url), probe(url)
    assert len(same_size.body) == CONTENT.size
    assert same_size.body != DATA
    assert short.body == b"short"
    assert len({answer.headers["etag"] for answer in (before, same_size, short)}) == 3
    assert same_size.headers["last-modified"] != before.headers["last-modified"]


def test_other_content_makes_an_if_range_fail(hub: HubServer, url: str) -> None:
    known = probe(url, "HEAD").headers["etag"]
    strike(hub, faults.other_content(b"replaced"))
    got = probe(url, headers=PART | {"If-Range": known})
    assert (got.status, got.body) == (200, b"replaced")


def test_gzip_is_sent_to_those_who_want_identity(hub: HubServer, url: str) -> None:
    strike(hub, faults.gzip())
    got = probe(url, headers=PART | {"Accept-Encoding": "identity"})
    assert (got.status, got.headers["content-encoding"]) == (200, "gzip")
    assert gzip.decompress(got.body) == DATA


def test_slow_connect_sends_nothing_for_a_while(hub: HubServer, url: str) -> None:
    strike(hub, faults.slow_connect(0.3))
    began = time.monotonic()
    assert probe(url).body == DATA
    assert time.monotonic() - began > 0.28


def test_redirect_to_sends_the_client_elsewhere(hub: HubServer, url: str) -> None:
    strike(hub, faults.redirect_to("http://127.0.0.1:9/x", 308))
    got = probe(url)
    assert (got.status, got.headers["location"]) == (308, "http://127.0.0.1:9/x")


def test_expired_links_are_refused_until_a_fresh_one_is_asked_for(hub: HubServer) -> None:
    url = hub.resolve_url(hub.add(listings.tiny()), "tiny-Q4_K_M.gguf")
    hub.faults.add(faults.expired_links(), "*.gguf", count=2)
    for status in (403, 403, 200):
        link = probe(url).headers["location"]
        got = probe(link)
        assert got.status == status
        assert (b"Request has expired" in got.body) == (status == 403)


def test_a_fault_strikes_the_origin_that_it_is_meant_for(hub: HubServer) -> None:
    url = hub.resolve_url(hub.add(listings.tiny()), "tiny-Q4_K_M.gguf")
    rule = hub.faults.add(faults.status(403), "org/tiny/*.gguf", origin="cdn", count=1)
    link = probe(url).headers["location"]
    assert rule.struck == 0
    assert [probe(link).status for _ in range(2)] == [403, 200]


def test_a_body_fault_leaves_redirects_alone(hub: HubServer) -> None:
    url = hub.resolve_url(hub.add(listings.tiny()), "tiny-Q4_K_M.gguf")
    rule = hub.faults.add(faults.cut(after_bytes=0), "*.gguf", count=1)
    got = probe(url)
    assert (got.status, got.ending, rule.struck) == (302, "complete", 0)
    assert probe(got.headers["location"]).ending == "reset"


def test_a_fault_may_let_some_pass_first(hub: HubServer, url: str) -> None:
    hub.faults.add(faults.status(500), "/f.bin", skip=2, count=1)
    assert [probe(url).status for _ in range(4)] == [200, 200, 500, 200]


def test_a_body_fault_may_let_some_pass_first(hub: HubServer, url: str) -> None:
    hub.faults.add(faults.truncate(1), "/f.bin", skip=1, count=1)
    assert [len(probe(url).body) for _ in range(3)] == [300_000, 299_999, 300_000]


def test_a_fault_may_be_for_one_method_or_for_certain_requests(hub: HubServer, url: str) -> None:
    hub.faults.add(faults.status(405), "/f.bin", method="HEAD")
    hub.faults.add(faults.status(500), "/f.bin", when=lambda request: "range" in request.headers)
    assert probe(url, "HEAD").status == 405
    assert probe(url, headers=PART).status == 500
    assert probe(url).status == 200
    hub.faults.clear()
    assert probe(url, "HEAD").status == 200


def test_faults_add_up(hub: HubServer, url: str) -> None:
    strike(hub, faults.no_range())
    strike(hub, faults.wrong_byte(10))
    strike(hub, faults.cut(after_bytes=20))
    got = probe(url, headers=PART)
    assert (got.status, got.ending) == (200, "reset")
    assert got.body == DATA[:10] + bytes([DATA[10] ^ 1]) + DATA[11:20]


def test_a_listing_of_the_api_may_be_cut_too(hub: HubServer) -> None:
    hub.add(listings.small_files(50))
    hub.faults.add(faults.cut(after_bytes=100), "/api/models/*/tree/*", count=1)
    address = f"{hub.endpoint}/api/models/org/many-files/tree/main"
    got = probe(address + "?recursive=true")
    assert (len(got.body), got.ending) == (100, "reset")


def test_faults_of_one_kind_strike_one_after_the_other(hub: HubServer, url: str) -> None:
    strike(hub, faults.status(500))
    strike(hub, faults.status(503))
    strike(hub, faults.cut(after_bytes=10))
    strike(hub, faults.cut(after_bytes=20))
    strike(hub, faults.other_content(b"x" * 100))
    strike(hub, faults.other_content(b"y" * 100))
    answers = [probe(url) for _ in range(5)]
    assert [answer.status for answer in answers] == [500, 503, 200, 200, 200]
    assert [answer.body for answer in answers[2:]] == [b"x" * 10, b"y" * 20, DATA]
