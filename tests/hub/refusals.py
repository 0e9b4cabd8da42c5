"""The Hub's error answers: status, X-Error-Code and X-Error-Message are what its clients decide by."""

from http import HTTPStatus
from urllib.parse import quote

from tests.hub.messages import Headers, Reply, json_reply, text_reply


class Refusal(Exception):
    """An error answer, raised where it is found out and sent by the origin."""

    def __init__(self, status: int, message: str, code: str | None = None, headers: Headers | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.headers = headers or []

    def reply(self, *, as_json: bool) -> Reply:
        """The reply: JSON below /api, text elsewhere."""
        # A header cannot carry every name that a client may ask for.
        safe = self.message if self.message.isascii() and self.message.isprintable() else quote(self.message, safe=" ")
        headers = [("X-Error-Message", safe), *self.headers]
        if self.code:
            headers.insert(0, ("X-Error-Code", self.code))
        if as_json:
            return json_reply({"error": self.message}, headers, self.status)
        return text_reply(self.status, self.message, headers)


def bad_credentials() -> Refusal:
    """A token was sent that nobody has issued."""
    return Refusal(HTTPStatus.UNAUTHORIZED, "Invalid credentials in Authorization header", None, _AUTHENTICATE)


def repo_not_found(*, signed_in: bool) -> Refusal:
    """No such repository, or one that the caller may not know of: 401 to the anonymous, 404 to others."""
    if signed_in:
        return Refusal(HTTPStatus.NOT_FOUND, "Repository not found", "RepoNotFound")
    return Refusal(HTTPStatus.UNAUTHORIZED, "Invalid username or password.", "RepoNotFound", _AUTHENTICATE)


def gated_repo(name: str, *, signed_in: bool) -> Refusal:
    """The repository's files need an agreement: 401 to the anonymous, 403 to those who have not agreed."""
    if signed_in:
        words = f"Access to model {name} is restricted and you are not in the authorized list. Ask for access to it."
        return Refusal(HTTPStatus.FORBIDDEN, words, "GatedRepo")
    words = f"Access to model {name} is restricted. You must have access to it and be authenticated. Please log in."
    return Refusal(HTTPStatus.UNAUTHORIZED, words, "GatedRepo", _AUTHENTICATE)


def revision_not_found(revision: str) -> Refusal:
    """The repository has no such branch, tag or commit."""
    return Refusal(HTTPStatus.NOT_FOUND, f"Invalid rev id: {revision}", "RevisionNotFound")


def entry_not_found(commit: str, message: str = "Entry not found") -> Refusal:
    """The commit has no such file or folder; it is named, so that a client can remember the absence."""
    return Refusal(HTTPStatus.NOT_FOUND, message, "EntryNotFound", [("X-Repo-Commit", commit)])


def storage_refusal(code: str, message: str) -> Reply:
    """A 403 as an object store words it."""
    xml = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'
    return text_reply(HTTPStatus.FORBIDDEN, xml, content_type="application/xml")


_AUTHENTICATE: Headers = [("WWW-Authenticate", 'Bearer realm="Authentication required", charset="UTF-8"')]
