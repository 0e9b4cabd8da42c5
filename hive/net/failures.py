"""Final failures of a connection: those that another try does not change, under their own names.

Problem: a certificate that nobody trusts, a proxy that refuses a password and a server that is restarting all reach us
as "the connection failed", in the classes of two libraries. The easy way, trying all of them again, makes a person wait
for half a minute to hear that the server is to blame. So the chain of causes is searched for what a try cannot change,
and the error says which variable to set. Never the error's own text, which may hold a URL.
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterator, Mapping
from typing import Final

from hive.errors import HiveError, ProxyRefused, TlsRefused
from hive.net import challenges
from hive.net.proxies import Proxy
from hive.net.tls import ADVICE, Trust

#: Causes of causes that are looked at.
MAX_CAUSES: Final = 20

#: X509_V_ERR_* of OpenSSL: the certificate's time is not now; it is for another name or address.
_EXPIRED: Final = frozenset({9, 10})
_OTHER_NAME: Final = frozenset({62, 64})
#: OpenSSL's reasons for a handshake that fails the same way each time.
_NO_COMMON_TLS: Final = frozenset(
    {
        "DH_KEY_TOO_SMALL",
        "HTTPS_PROXY_REQUEST",
        "HTTP_REQUEST",
        "NO_PROTOCOLS_AVAILABLE",
        "SSLV3_ALERT_BAD_CERTIFICATE",
        "SSLV3_ALERT_HANDSHAKE_FAILURE",
        "TLSV13_ALERT_CERTIFICATE_REQUIRED",
        "TLSV1_ALERT_INSUFFICIENT_SECURITY",
        "TLSV1_ALERT_PROTOCOL_VERSION",
        "TLSV1_UNRECOGNIZED_NAME",
        "UNKNOWN_PROTOCOL",
        "UNSAFE_LEGACY_RENEGOTIATION_DISABLED",
        "UNSUPPORTED_PROTOCOL",
        "WRONG_SSL_VERSION",
        "WRONG_VERSION_NUMBER",
    }
)
#: What is said of them; and of those that mean something else.
_NO_TLS: Final = "speaks no TLS that hive can speak ({}). Is https right?"
_ALERTS: Final = {
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "wants a certificate of its client, and hive has none to show. "
    "Ask whoever runs it for an address that wants none, or fetch through a proxy that shows one.",
    "TLSV1_UNRECOGNIZED_NAME": "has no certificate for this name. Check the address.",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "speaks no TLS that hive can speak ({}), or wants a certificate of its client, "
    "and hive has none to show. Is https right?",
}
#: Products that answer in a server's place, as their `Server` has them.
_PROXIES: Final = frozenset(
    {
        *("squid", "tinyproxy", "privoxy", "bcproxy", "zscaler", "mcafee web gateway", "mwg", "bluecoat", "cntlm"),
        *("forcepoint", "websense", "ironport", "cisco-wsa", "sophos", "fortigate", "polipo", "wwwoffle", "3proxy"),
    }
)
#: How getaddrinfo says that a name does not exist, or has no address.
_NO_NAME: Final = frozenset(
    number for name in ("EAI_NONAME", "EAI_NODATA", "EAI_ADDRFAMILY") if (number := getattr(socket, name, None))
)
#: The classes of a connection that ends where an answer was to come: the proxy's doing as likely as the server's.
_BROKEN: Final = frozenset(
    {"RemoteDisconnected", "RemoteProtocolError", "ConnectionResetError", "ReadError", "SSLEOFError"}
)
#: How the libraries say that a proxy answered CONNECT with something else than 2xx.
_TUNNEL: Final = re.compile(r"(?:Tunnel connection failed: )?([3-5][0-9]{2})\b.*", re.DOTALL)


def final_failure(error: BaseException, host: str, proxy: Proxy | None, trust: Trust | None = None) -> HiveError | None:
    """The error that ends it, for a connection to `host` that failed; None where another try may help. `trust` is what
    it went by.
    """
    peer = host
    for cause in _causes(error):
        if proxy is not None and _is_of_proxy(cause):
            peer = f"the proxy in {proxy.variable}"
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _certificate(cause, peer, trust)
        if isinstance(cause, ssl.SSLError) and cause.reason in _NO_COMMON_TLS:
            said = f"{peer} {_ALERTS.get(cause.reason, _NO_TLS).format(_words(cause.reason))}"
            return TlsRefused(said[0].upper() + said[1:] if peer != host else said)
        if proxy is not None and (found := _TUNNEL.fullmatch(str(cause))):
            return refused_by_proxy(int(found[1]), host, proxy)
    return None


def proxy_trouble(error: BaseException, host: str, proxy: Proxy | None) -> str | None:
    """In words, where it is the proxy that keeps a connection to `host` from being made; None where it is not."""
    if proxy is None:
        return None
    causes = list(_causes(error))
    for cause in causes:
        if found := _TUNNEL.fullmatch(str(cause)):
            return f"the proxy in {proxy.variable} answers {found[1]} for {host}"
    if any(_is_of_proxy(cause) for cause in causes):
        return f"the proxy in {proxy.variable} cannot be reached"
    if any(type(cause).__name__ in _BROKEN for cause in causes):
        return f"the connection through the proxy in {proxy.variable} broke"
    return None


def refused_by_proxy(status: int, host: str, proxy: Proxy) -> HiveError | None:
    """What the answer of a proxy to CONNECT means; None where another try may help."""
    if status == 407:
        return ProxyRefused(proxy.refusal(challenges.unspoken()))
    if status >= 500 or status in (408, 425, 429):
        return None
    said = f"The proxy in {proxy.variable} refuses to connect to {host} ({status})."
    return ProxyRefused(f"{said} Allow it there, or go past it with NO_PROXY={host}.")


def answered_by_proxy(status: int, headers: Mapping[str, str], host: str, proxy: Proxy) -> HiveError | str | None:
    """What an error means that came over plain http, where a proxy may answer in the server's place: the error that
    ends it, or words for a trouble that may pass; None where nothing says that it was the proxy.
    """
    if status == 407:
        return ProxyRefused(proxy.refusal(challenges.unspoken()))
    if status < 400 or not _is_proxys_own(headers):
        return None
    said = f"the proxy in {proxy.variable} answers {status} for {host} itself"
    if status >= 500 or status in (408, 425, 429):
        return said
    return ProxyRefused(f"{said[0].upper()}{said[1:]}. Allow it there, or go past it with NO_PROXY={host}.")


def perhaps_of_proxy(headers: Mapping[str, str], proxy: Proxy | None) -> str:
    """A sentence about the proxy that an answer has passed, with a blank before it; "" where there is none."""
    if proxy is None or not ("via" in headers or any(name.lower().startswith("proxy-") for name in headers)):
        return ""
    return f" The answer came through the proxy in {proxy.variable}, which may have given it itself."


def _is_proxys_own(headers: Mapping[str, str]) -> bool:
    """Whether an answer says that a proxy made it: Squid's mark, RFC 9209, or a proxy's name as the server."""
    if "x-squid-error" in headers or "proxy-authenticate" in headers or "proxy-connection" in headers:
        return True
    if "error=" in headers.get("proxy-status", ""):
        return True
    server = headers.get("server", "").partition("/")[0].strip().lower()
    return bool(server) and (server in _PROXIES or f"({server}" in headers.get("via", "").lower())


def is_unknown_name(error: BaseException) -> bool:
    """Whether DNS says that there is no such name, and not that it cannot be asked now."""
    return any(isinstance(cause, socket.gaierror) and cause.errno in _NO_NAME for cause in _causes(error))


def unknown_name(host: str, proxy: Proxy | None) -> str:
    """In words, whose name it is."""
    if proxy is None:
        return f"there is no host {host}"
    return f"the proxy in {proxy.variable} cannot be reached: there is no host {proxy.host}"


def _certificate(error: ssl.SSLCertVerificationError, host: str, trust: Trust | None) -> HiveError:
    why = _words(error.verify_message)
    if error.verify_code in _EXPIRED:
        if trust is not None and (own := trust.expired()):
            return TlsRefused(
                f"The TLS certificate of {host} is not trusted ({why}): {own}. Get the one that follows it."
            )
        return TlsRefused(f"The TLS certificate of {host} is out of its time ({why}), or this machine's clock is.")
    if error.verify_code in _OTHER_NAME:
        return TlsRefused(f"The TLS certificate of {host} is for another name ({why}).")
    return TlsRefused(f"The TLS certificate of {host} is not trusted ({why}). {ADVICE}")


def _is_of_proxy(error: BaseException) -> bool:
    """Whether a library says that it was still speaking to the proxy. Each of them has a class of this name."""
    return type(error).__name__ == "ProxyError"


def _words(text: str | None) -> str:
    """OpenSSL's own words, which hold no URL, on one line."""
    return " ".join("".join(char if char.isprintable() else " " for char in text or "").split())[:200].rstrip(".")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what it was made from: libraries keep that as cause, as context, or as an argument."""
    waiting: list[BaseException] = [error]
    seen: set[int] = set()
    while waiting and len(seen) < MAX_CAUSES:
        current = waiting.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        inner = (current.__cause__, current.__context__, getattr(current, "original_error", None), *current.args)
        waiting.extend(cause for cause in inner if isinstance(cause, BaseException))
