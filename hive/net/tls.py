"""Which certificates are trusted, and the one TLS context of all clients of ours.

Problem: REQUESTS_CA_BUNDLE is read by requests and its like, SSL_CERT_FILE by OpenSSL and its like, and whoever sits
behind a company's proxy has set one of them. The easy way, letting each library look for its own, makes the Hub's API
fail where plain URLs work. So all four variables are read, once, for everything, and looked into at the start: a
certificate store that is missing or empty is found then, by its variable's name, and not after six tries of a download.

REQUESTS_CA_BUNDLE (CURL_CA_BUNDLE where it is not set) takes the place of the system's and certifi's certificates, as
it does for requests. SSL_CERT_FILE and SSL_CERT_DIR take the place of the system's, as they do for OpenSSL; certifi's
stay, since these variables are often set to a company's certificate alone.
"""

from __future__ import annotations

import binascii
import contextlib
import functools
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hive.errors import TlsRefused
from hive.given_file import check_given_file
from hive.net.variables import bare

if TYPE_CHECKING:
    import ssl

#: Names of certificate files in a folder; OpenSSL itself looks for names made of hashes (`c_rehash`) only.
_SUFFIXES: Final = (".pem", ".crt", ".cer")
#: Most files of a folder that are read, and bytes of one: a system's store has 150 files, its bundle 250 kB.
MAX_FILES: Final = 2_000
MAX_FILE_BYTES: Final = 16 << 20

_PEM: Final = re.compile(rb"-----BEGIN (?:TRUSTED |X509 )?CERTIFICATE-----(.*?)-----END", re.DOTALL)
_ASN1_SEQUENCE: Final = b"\x30"
#: What people name in place of a certificate, by its mark.
_NO_CERTIFICATES: Final = (
    (b"PRIVATE KEY-----", "a private key and no certificate"),
    (b"CERTIFICATE REQUEST-----", "a request for a certificate, and none"),
    (b"PUBLIC KEY-----", "a public key and no certificate"),
    (b"BEGIN PKCS7-----", "a PKCS #7 bundle. Convert it: openssl pkcs7 -print_certs"),
    (b"BEGIN CERTIFICATE-----", "a certificate that is cut or damaged"),
)

#: What to do about a certificate that is not trusted.
ADVICE: Final = (
    "Set SSL_CERT_FILE to the file with the certificate of the authority that signed it: a company's proxy has its own."
)


@dataclass(frozen=True)
class Trust:
    """Which certificate authorities count. `None`: the variable is not set."""

    #: REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE: a file or a folder, and which of the two it was.
    bundle: str | None = None
    variable: str = "REQUESTS_CA_BUNDLE"
    #: SSL_CERT_FILE; and SSL_CERT_DIR, folders separated by colons.
    cert_file: str | None = None
    cert_dir: str | None = None
    #: Which variable `cert_file` came from.
    cert_variable: str = "SSL_CERT_FILE"

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Trust:
        """What these variables say; an empty one, and one that names /dev/null, counts as not set."""
        names = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "HIVE_CA_FILE", "SSL_CERT_FILE", "SSL_CERT_DIR")
        given = {name: bare(environ.get(name, "")) for name in names}
        said = {name: value for name, value in given.items() if value and not is_null_device(value)}
        variable = "REQUESTS_CA_BUNDLE" if "REQUESTS_CA_BUNDLE" in said else "CURL_CA_BUNDLE"
        named = "HIVE_CA_FILE" if "HIVE_CA_FILE" in said else "SSL_CERT_FILE"
        return cls(said.get(variable), variable, said.get(named), said.get("SSL_CERT_DIR"), named)

    def check(self) -> None:
        """Look into what is named, without OpenSSL: loading all certificates takes longer than most commands.

        Raises:
            ValueError: nothing is there, or may be read, or is a certificate; the text names the variable.
        """
        if self.bundle is not None:
            _load(_has_certificate, self.bundle, self.variable)
        if self.cert_file is not None:
            _load(_has_certificate, self.cert_file, self.cert_variable)
        if self.cert_dir is not None:
            _load_folders(_has_certificate, self.cert_dir)

    def context(self) -> ssl.SSLContext:
        """The context for connections of ours; the same object each time.

        Raises:
            TlsRefused: what is named holds no certificate after all: `check` does not read it to the end.
        """
        try:
            return _context(self)
        except ValueError as error:
            raise TlsRefused(str(error)) from None

    def expired(self) -> str | None:
        """In words, which certificate that a variable names is out of its time; None without one. For whoever looks for
        the reason of a failure: it reads all of them.
        """
        named = ((self.variable, self.bundle), (self.cert_variable, self.cert_file), ("SSL_CERT_DIR", self.cert_dir))
        for variable, paths in named:
            for path in (paths or "").split(os.pathsep if variable == "SSL_CERT_DIR" else "\0"):
                for subject, ended in _expired(path) if path else ():
                    return f"{variable} names {path}, in which the certificate of {subject} expired on {ended}"
        return None

    @property
    def files(self) -> dict[str, str]:
        """The same as OpenSSL's own variables, for a library that reads nothing else."""
        if self.bundle is not None:
            return {"SSL_CERT_DIR" if os.path.isdir(self.bundle) else "SSL_CERT_FILE": self.bundle}
        named = {"SSL_CERT_FILE": self.cert_file, "SSL_CERT_DIR": self.cert_dir}
        return {name: value for name, value in named.items() if value is not None}


@functools.lru_cache(maxsize=4)
def _context(trust: Trust) -> ssl.SSLContext:
    """Reading the certificates takes 40 ms: once."""
    # Here, since commands that open no connection do without.
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_flags |= ssl.VERIFY_X509_TRUSTED_FIRST | ssl.VERIFY_X509_PARTIAL_CHAIN
    if trust.bundle is not None:
        _load(_into(context), trust.bundle, trust.variable)
    if trust.cert_file is not None:
        _load(_into(context), trust.cert_file, trust.cert_variable)
    if trust.cert_dir is not None:
        _load_folders(_into(context), trust.cert_dir)
    if trust.bundle is None:
        if trust.cert_file is None and trust.cert_dir is None:
            context.load_default_certs()
        import certifi

        context.load_verify_locations(certifi.where())
    return context


def is_null_device(path: str) -> bool:
    """Whether a path is /dev/null, or what is mounted from there: a compose file mounts something in any case."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return False  # what is wrong with it is told where it is read
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == os.stat(os.devnull).st_rdev


class _NoCertificateError(Exception):
    """A file holds no certificate that can be read."""


#: Takes the certificates of a file. Raises _NoCertificateError and OSError.
_Take = Callable[[str], None]


def _into(context: ssl.SSLContext) -> _Take:
    """Takes them into a context."""
    import ssl

    def take(file: str) -> None:
        try:
            context.load_verify_locations(cafile=file)
        except ssl.SSLError:
            raise _NoCertificateError from None

    return take


def _has_certificate(file: str) -> None:
    """Looks whether there is one: a PEM block whose base64 is that of an ASN.1 sequence."""
    with open(file, "rb") as stream:
        text = stream.read(MAX_FILE_BYTES)
    for match in _PEM.finditer(text):
        with contextlib.suppress(binascii.Error):
            if binascii.a2b_base64(match[1])[:1] == _ASN1_SEQUENCE:
                return
    raise _NoCertificateError


def _load(take: _Take, path: str, variable: str) -> None:
    """All certificates of a file or folder. Raises ValueError."""
    try:
        if os.path.isdir(path):
            if not _read_folder(take, path):
                raise _NoCertificateError
        else:
            check_given_file(path, MAX_FILE_BYTES)
            take(path)
    except FileNotFoundError:
        raise ValueError(f"{variable} names {path}, which does not exist.") from None
    except _NoCertificateError:
        what = "no certificate that can be read" if os.path.isdir(path) else _what_it_holds(path)
        raise ValueError(f"{variable} names {path}, which holds {what}.") from None
    except OSError as error:
        raise ValueError(f"{variable} names {path}, which cannot be read: {error.strerror}.") from None


def _what_it_holds(path: str) -> str:
    """What a file holds that has no certificate in PEM, and what to do about it."""
    with open(path, "rb") as stream:
        text = stream.read(MAX_FILE_BYTES)
    if text[:1] == _ASN1_SEQUENCE:
        import cryptography.x509

        try:
            cryptography.x509.load_der_x509_certificate(text)
        except ValueError:
            return "bytes that are not a certificate in PEM (a .p12, .pfx or .p7b?)"
        return f"a certificate in DER, not in PEM. Convert it: openssl x509 -inform der -in {path} -out {path}.pem"
    if text.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "text in UTF-16. Save it as plain ASCII"
    for mark, words in _NO_CERTIFICATES:
        if mark in text:
            return words
    return "no certificate that can be read"


def _expired(path: str) -> Iterator[tuple[str, str]]:
    """The names and last days of certificates in a file or folder that are out of their time."""
    import datetime

    import cryptography.x509

    now = datetime.datetime.now(datetime.UTC)
    with contextlib.suppress(OSError):
        for file in _certificate_files(path) if os.path.isdir(path) else (path,):
            with open(file, "rb") as stream, contextlib.suppress(ValueError):
                for found in cryptography.x509.load_pem_x509_certificates(stream.read(MAX_FILE_BYTES)):
                    if found.not_valid_after_utc < now:
                        yield found.subject.rfc4514_string()[:200], f"{found.not_valid_after_utc:%Y-%m-%d}"


def _load_folders(take: _Take, paths: str) -> None:
    """As OpenSSL takes SSL_CERT_DIR: several folders, some of which may be missing or empty. Raises ValueError."""
    found = False
    for path in paths.split(os.pathsep):
        try:
            found = _read_folder(take, path) or found
        except FileNotFoundError:
            continue
        except OSError as error:
            raise ValueError(f"SSL_CERT_DIR names {path}, which cannot be read: {error.strerror}.") from None
        if found and take is _has_certificate:
            return
    if not found:
        raise ValueError(f"SSL_CERT_DIR names {paths}, which holds no certificate that can be read.")


def _read_folder(take: _Take, path: str) -> bool:
    """Take the certificates of a folder, whether it was prepared for OpenSSL or not; whether there was one."""
    found = False
    for file in _certificate_files(path):
        with contextlib.suppress(_NoCertificateError):
            take(file)
            found = True
        if found and take is _has_certificate:
            break
    return found


def _certificate_files(path: str) -> Iterator[str]:
    for file in sorted(Path(path).iterdir())[:MAX_FILES]:
        hashed = file.suffix[1:].isdecimal()
        if (hashed or file.suffix.lower() in _SUFFIXES) and file.is_file() and file.stat().st_size <= MAX_FILE_BYTES:
            yield str(file)
