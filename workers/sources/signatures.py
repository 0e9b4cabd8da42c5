"""Signed URLs of objects, signed once more where obstore's would be refused, or do not ask for what is wanted.

Problem: obstore signs for Azure with the path as it stands in the URL, and Azure compares with the name itself, so no
object with a blank or an accent in its name can be had; it lets the signature begin now, which a store whose clock is
behind refuses. For Google it leaves characters as they are that are to be encoded (`+`, `=`, `(`), and signs for
Google's own host whatever the URL's is. The easy way, to refuse such names, refuses objects that are there. So obstore
finds the credentials and makes the URL, and where they are a key that this process has, the signature is made here.

S3 tells a checksum to who asks for it by a header, which has to be signed too, and obstore signs none.

Written after Microsoft's "Create a service SAS", Google's "V4 signing process with your own program" and Amazon's
"Authenticating Requests: Using Query Parameters (Signature Version 4)".
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Final
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

#: What asks S3 for checksums.
CHECKSUM_HEADER: Final = ("x-amz-checksum-mode", "ENABLED")
#: The version of Azure's protocol that says what is signed below.
AZURE_VERSION: Final = "2023-11-03"
#: Parameters of what Azure signs, in their order: permissions, start, end, (the object), policy, addresses, protocol,
#: version, kind, snapshot, scope of encryption, and five headers of the answer.
_AZURE_BEFORE: Final = ("sp", "st", "se")
_AZURE_AFTER: Final = ("si", "sip", "spr", "sv", "sr", "snapshot", "ses", "rscc", "rscd", "rsce", "rscl", "rsct")


def signed_for_azure(url: str, account: str, key: str) -> str:
    """The signed URL of a blob with a signature for its name, good from any time on. `key` is in base64.

    Raises:
        ValueError: `key` is not.
    """
    parts = urlsplit(url)
    query = {name: value for name, value in parse_qsl(parts.query) if name not in ("sig", "st")}
    query["sv"] = AZURE_VERSION
    path = unquote(parts.path)
    # Of an emulator, and of whoever stands in for Azure, the account is in the path.
    blob = f"/blob{path}" if path.startswith(f"/{account}/") else f"/blob/{account}{path}"
    signed = [*(query.get(name, "") for name in _AZURE_BEFORE), blob, *(query.get(name, "") for name in _AZURE_AFTER)]
    digest = hmac.digest(base64.b64decode(key, validate=True), "\n".join(signed).encode(), "sha256")
    query["sig"] = base64.b64encode(digest).decode()
    return parts._replace(query=urlencode(query)).geturl()


def is_delegated(url: str) -> bool:
    """Whether a signed URL of Azure is so by a key that a role got, and not by that of the account."""
    return "skoid" in dict(parse_qsl(urlsplit(url).query))


def is_encoded(url: str) -> bool:
    """Whether a character of the path is written as another, so that obstore's signature for Azure is wrong."""
    path = urlsplit(url).path
    return unquote(path) != path


def signed_for_google(url: str, private_key: str) -> str:
    """The signed URL of an object with all of its name encoded that is to be, by a service account's key in PEM.

    Raises:
        ValueError, TypeError: that is no RSA key.
    """
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    parts = urlsplit(url)
    path = quote(unquote(parts.path), safe="/~")
    query = {name: value for name, value in parse_qsl(parts.query) if name != "X-Goog-Signature"}
    asked = urlencode(sorted(query.items()), quote_via=quote, safe="~")
    canonical = f"GET\n{path}\n{asked}\nhost:{parts.netloc}\n\nhost\nUNSIGNED-PAYLOAD"
    scope = query["X-Goog-Credential"].split("/", 1)[1]
    hashed = hashlib.sha256(canonical.encode()).hexdigest()
    key = load_pem_private_key(private_key.encode(), None)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise TypeError("not an RSA key")
    text = f"GOOG4-RSA-SHA256\n{query['X-Goog-Date']}\n{scope}\n{hashed}"
    signature = key.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256()).hex()
    return parts._replace(path=path, query=f"{asked}&X-Goog-Signature={signature}").geturl()


def signed_for_checksum(url: str, key_id: str, secret: str) -> str | None:
    """The signed URL of a HEAD of S3's with a signature of CHECKSUM_HEADER too; None where another key signed it."""
    parts = urlsplit(url)
    query = {name: value for name, value in parse_qsl(parts.query) if name != "X-Amz-Signature"}
    owner, _, scope = query["X-Amz-Credential"].partition("/")
    if owner != key_id:
        return None
    name, value = CHECKSUM_HEADER
    query["X-Amz-SignedHeaders"] = f"host;{name}"
    asked = urlencode(sorted(query.items()), quote_via=quote, safe="~")
    headers = f"host:{parts.netloc}\n{name}:{value}\n\nhost;{name}"
    canonical = f"HEAD\n{parts.path}\n{asked}\n{headers}\nUNSIGNED-PAYLOAD"
    hashed = hashlib.sha256(canonical.encode()).hexdigest()
    key = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    text = f"AWS4-HMAC-SHA256\n{query['X-Amz-Date']}\n{scope}\n{hashed}"
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    return parts._replace(query=f"{asked}&X-Amz-Signature={signature}").geturl()
