"""Who is the client of a request that came through proxies: what is believed, and from whom."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hive.net.forwarded import MAX_HOPS, MAX_TRUSTED, ClientOrigin, TrustedProxies, TrustedProxiesError

TRUSTED = TrustedProxies.parse("10.0.0.0/8, 2001:db8:1::/48 ,127.0.0.1")
PEER = "10.0.0.1"
CLIENT = "203.0.113.7"


def origin(*lines: tuple[str, str], peer: str = PEER) -> ClientOrigin | None:
    return TRUSTED.origin(peer, [(name.lower().encode(), value.encode("latin-1")) for name, value in lines])


def client(value: str, name: str = "X-Forwarded-For", peer: str = PEER) -> str:
    """The client's address, or the peer's where nothing was told."""
    found = origin((name, value), peer=peer)
    return found.address if found else peer


@pytest.mark.parametrize("peer", [CLIENT, "11.0.0.1", "127.0.0.2", "2001:db8:2::1", "", "unix:", "10.0.0.1.evil"])
def test_what_a_stranger_says_is_not_heard(peer: str) -> None:
    for line in (("X-Forwarded-For", "1.2.3.4"), ("Forwarded", "for=1.2.3.4"), ("X-Forwarded-Proto", "https")):
        assert origin(line, peer=peer) is None


@pytest.mark.parametrize("peer", [PEER, "::ffff:10.9.9.9", "2001:db8:1::5", "127.0.0.1"])
def test_a_proxy_is_known_by_any_form_of_its_address(peer: str) -> None:
    assert client(CLIENT, peer=peer) == CLIENT


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (CLIENT, CLIENT),
        (f"6.6.6.6, {CLIENT}", CLIENT),  # what the client itself has typed stands in front
        (f"6.6.6.6, {CLIENT}, 10.0.0.2", CLIENT),
        (f"6.6.6.6, {CLIENT}, 2001:db8:1::7, 10.0.0.2", CLIENT),
        (f"10.0.0.99, {CLIENT}", CLIENT),  # an address of ours, typed by a stranger
        ("10.0.0.5, 10.0.0.2", "10.0.0.5"),  # all are ours: the furthest
        (f"{CLIENT}:4711", CLIENT),
        ("[2001:db8:9::1]:443", "2001:db8:9::1"),
        ("[2001:DB8:9::0001]", "2001:db8:9::1"),
        ("2001:db8:9::1", "2001:db8:9::1"),
        ('"[2001:db8:9::1]:443"', "2001:db8:9::1"),
        ("::ffff:203.0.113.7", CLIENT),
        ("fe80::1%eth0", "fe80::1"),
        (f"  {CLIENT}\t", CLIENT),
        (f"{CLIENT}, ,", CLIENT),
    ],
)
def test_the_client_is_the_last_address_that_is_no_proxys(value: str, expected: str) -> None:
    assert client(value) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("unknown", "_hidden", "localhost", "evil.example.org", "010.0.0.1", "1.2.3", "1.2.3.4.5", "0x7f000001"),
        *("[::1", "::1]", "[::1]:", "[::1]:1234567", "1.2.3.4:", "1.2.3.4:port", "1.2.3.4 5", "9" * 5000, "\x00", "é"),
    ],
)
def test_what_is_no_address_is_nobody_and_ends_the_walk(text: str) -> None:
    assert client(text) == PEER
    assert client(f"{CLIENT}, {text}") == PEER, "it is not passed over: who stands in front of it is hearsay"
    assert client(f"{text}, 10.0.0.2") == "10.0.0.2"
    assert client(f"{text}, {CLIENT}") == CLIENT
    assert client(f'for="{text}"', "Forwarded") == PEER


@pytest.mark.parametrize("text", ["127.0.0.1", "::1", "127.9.9.9:80", "::ffff:127.0.0.5", "[::1]:443", "0.0.0.0", "::"])
def test_the_loopback_of_another_machine_is_not_ours(text: str) -> None:
    assert client(text) == PEER
    assert client(f"{CLIENT}, {text}") in (PEER, CLIENT), "the client, where that address is trusted"
    assert client(f"{text}, 10.0.0.2") == "10.0.0.2"
    assert client(f'for="{text}"', "Forwarded") == PEER
    assert client("127.0.0.9", peer="127.0.0.1") == "127.0.0.9", "a proxy on this machine tells of this machine"


def test_two_proxies_on_one_machine_are_passed() -> None:
    assert client(f"{CLIENT}, 127.0.0.1") == CLIENT


@pytest.mark.parametrize("value", ["", " ", ",", ", ,"])
def test_a_header_without_an_entry_says_nothing(value: str) -> None:
    assert origin(("X-Forwarded-For", value)) is None
    assert origin(("Forwarded", value)) is None


def test_lines_of_one_name_are_one_list() -> None:
    lines = [("X-Forwarded-For", "6.6.6.6"), ("X-Forwarded-For", CLIENT), ("X-Forwarded-For", "10.0.0.2")]
    assert origin(*lines) == (CLIENT, None, None)
    assert origin(*((("Forwarded", f"for={value}")) for _, value in lines)) == (CLIENT, None, None)


def test_a_hundred_hops_are_looked_at_up_to_a_limit() -> None:
    assert client(", ".join(["6.6.6.6"] * 100 + [CLIENT])) == CLIENT
    for name, form in (("X-Forwarded-For", "10.1.0.{}"), ("Forwarded", "for=10.1.0.{}")):
        ours = ", ".join(form.format(n) for n in range(100))
        assert client(ours, name) == f"10.1.0.{100 - MAX_HOPS}"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (f"for={CLIENT}", (CLIENT, None, None)),
        (f"For={CLIENT};Proto=HTTPS;host=hive.example.org;by=10.0.0.1", (CLIENT, "https", "hive.example.org")),
        ('for="[2001:db8:9::1]:4711";proto=http', ("2001:db8:9::1", "http", None)),
        (f'for="{CLIENT}:80"; host="hive.example.org:8443"', (CLIENT, None, "hive.example.org:8443")),
        (f"for=6.6.6.6;proto=http, for={CLIENT};proto=https, for=10.0.0.2;proto=http", (CLIENT, "https", None)),
        (f'for="6.6.6.6, for={CLIENT}', (CLIENT, None, None)),  # a quote left open by the client
        (f'for="6.6.6.6\\", for={CLIENT}', (CLIENT, None, None)),
        (f'x="a,b", for="{CLIENT}"', (CLIENT, None, None)),
        (f'for="{CLIENT[:-1]}\\{CLIENT[-1]}"', (CLIENT, None, None)),
        (f"for={CLIENT};secret=_x;", (CLIENT, None, None)),
        (f"for={CLIENT};for=6.6.6.6", None),
        (f"for={CLIENT} for=6.6.6.6", None),
        ("for", None),
        ("=;=", None),
        ("proto=https", (PEER, "https", None)),
        (f"for={CLIENT};proto=gopher", (CLIENT, None, None)),
    ],
)
def test_the_standard_header_is_read_by_its_grammar(value: str, expected: tuple[str, str | None, str | None]) -> None:
    assert origin(("Forwarded", value)) == expected


def test_the_standard_header_counts_only_where_there_is_no_other() -> None:
    """Most proxies write X-Forwarded-For, and pass on whatever Forwarded the client sends."""
    assert origin(("Forwarded", "for=6.6.6.6;proto=https"), ("X-Forwarded-For", CLIENT)) == (CLIENT, None, None)


@pytest.mark.parametrize(
    ("nodes", "schemes", "expected"),
    [
        (CLIENT, "https", "https"),
        (CLIENT, "HTTPS", "https"),
        (CLIENT, "http, https", "https"),  # the first is the client's own word
        (f"{CLIENT}, 10.0.0.2", "https, http", "https"),  # TLS ends at the first proxy
        (f"{CLIENT}, 10.0.0.2", "https", "https"),  # and the second has passed its word on
        (f"{CLIENT}, 10.0.0.2", "http, https, http", "https"),
        (CLIENT, "wss", None),
        (CLIENT, "", None),
        ("", "https", "https"),
    ],
)
def test_the_scheme_is_that_of_the_clients_hop(nodes: str, schemes: str, expected: str | None) -> None:
    found = origin(("X-Forwarded-For", nodes), ("X-Forwarded-Proto", schemes), ("X-Forwarded-Host", "h.example.org"))
    assert found is not None
    assert (found.scheme, found.host) == (expected, "h.example.org")


@given(st.lists(st.tuples(st.sampled_from(["x-forwarded-for", "forwarded", "x-forwarded-host"]), st.text(max_size=60))))
def test_whatever_is_said_the_last_word_of_a_proxy_holds(lines: list[tuple[str, str]]) -> None:
    headers = [(name.encode(), value.encode("utf-8")) for name, value in lines]
    own = [(b"x-forwarded-for", CLIENT.encode())]
    found = TRUSTED.origin(PEER, headers + own)
    assert found is not None
    assert found.address == CLIENT
    standard = [header for header in headers if header[0] == b"forwarded"]
    found = TRUSTED.origin(PEER, [*standard, (b"forwarded", f"for={CLIENT}".encode())])
    assert found is not None
    assert found.address == CLIENT


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("caddy", "'caddy' is neither an address"),
        ("10.0.0.0/33", "neither an address"),
        ("10.0.0.7/8", "it is 10.0.0.0/8"),
        ("10.0.0.1,*", "'*' is neither"),
        ("0.0.0.0/0", "is everybody"),
        ("::/0", "is everybody"),
        (",".join(["10.0.0.1"] * (MAX_TRUSTED + 1)), f"{MAX_TRUSTED} are the most"),
    ],
)
def test_a_list_that_cannot_be_used_is_refused_with_its_entry(text: str, says: str) -> None:
    with pytest.raises(TrustedProxiesError) as raised:
        TrustedProxies.parse(text)
    assert says in str(raised.value)


def test_nobody_is_trusted_unless_somebody_is_named() -> None:
    for text in ("", " , "):
        assert not TrustedProxies.parse(text)
        assert TrustedProxies.parse(text).origin(PEER, [(b"x-forwarded-for", b"1.2.3.4")]) is None
