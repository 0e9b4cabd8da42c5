"""moto's server, before which Amazon's own library compares signatures: `python -m tests.support.moto_app`.

Problem: moto, like most that stands in for S3, looks at no signature of a URL, so a test with it would pass with URLs
that S3 refuses. The stand-in of this repository computes them, but whoever wrote it wrote what signs as well. So
botocore does it here, on the request as it came; all that is asked with a signature is answered by moto alone. What
fills it (PUT, POST, DELETE) needs none.
"""

from __future__ import annotations

import hmac
import json
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any, Final
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

#: Who may read: AWS_ACCESS_KEY_ID and what belongs to it, by that id. Who starts this says so.
KEYS: Final = {key["AWS_ACCESS_KEY_ID"]: key for key in json.loads(os.environ["MOTO_KEYS"])}
#: What of the headers of a request is signed, by their names in WSGI.
_SIGNED: Final = {"HTTP_HOST": "host", "HTTP_X_AMZ_CHECKSUM_MODE": "x-amz-checksum-mode"}

_printing = threading.Lock()


def say(**entry: object) -> None:
    """One line for who started this."""
    with _printing:
        sys.stdout.write(json.dumps(entry) + "\n")
        sys.stdout.flush()


def refusal(environ: dict[str, Any]) -> str:
    """Why S3 would refuse a request; "" where it would not."""
    address = urlsplit(environ["REQUEST_URI"])
    query = dict(parse_qsl(address.query))
    signature = query.pop("X-Amz-Signature", "")
    if not signature:
        return "AccessDenied"
    key_id, _, scope = query["X-Amz-Credential"].partition("/")
    _, region, service, _ = scope.split("/")
    if key_id not in KEYS:
        return "InvalidAccessKeyId"
    if query.get("X-Amz-Security-Token") != KEYS[key_id].get("AWS_SESSION_TOKEN"):
        return "InvalidToken"
    signed = query["X-Amz-SignedHeaders"].split(";")
    headers = {name: environ[key] for key, name in _SIGNED.items() if key in environ}
    if set(headers) != set(signed):
        return "AccessDenied: There were headers present in the request which were not signed"
    # S3 takes the name that was asked for, however it was written.
    path = quote(unquote(address.path), safe="/~")
    asked = "&".join(part for part in address.query.split("&") if not part.startswith("X-Amz-Signature="))
    request = AWSRequest(environ["REQUEST_METHOD"], f"http://{headers['host']}{path}?{asked}", headers)
    request.context["timestamp"] = query["X-Amz-Date"]
    auth = S3SigV4QueryAuth(Credentials(key_id, KEYS[key_id]["AWS_SECRET_ACCESS_KEY"]), service, region)
    wanted = auth.signature(auth.string_to_sign(request, auth.canonical_request(request)), request)
    return "" if hmac.compare_digest(wanted, signature) else "SignatureDoesNotMatch"


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """moto's answer, or a refusal in S3's form."""
    refused = refusal(environ) if environ["REQUEST_METHOD"] in ("GET", "HEAD") else ""
    statuses = [403]

    def start(status: str, *rest: Any) -> Any:
        statuses[0] = int(status.split()[0])
        return start_response(status, *rest)

    if refused:
        body = f"<Error><Code>{refused}</Code><Message>{refused}</Message></Error>".encode()
        start("403 Forbidden", [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
        parts: Iterable[bytes] = [body]
    else:
        parts = _moto(environ, start)
    # Before the body: what a client that leaves had asked for counts as well, and in this order.
    say(
        message="asked",
        method=environ["REQUEST_METHOD"],
        path=unquote(urlsplit(environ["REQUEST_URI"]).path),
        range=environ.get("HTTP_RANGE", ""),
        status=statuses[0],
    )
    return parts


_moto = DomainDispatcherApplication(create_backend_app)

if __name__ == "__main__":
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=MotoRequestHandler)
    say(message="listening", address=f"http://127.0.0.1:{server.server_port}")
    server.serve_forever()
