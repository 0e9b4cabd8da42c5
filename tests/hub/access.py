"""Who may see what: bearer tokens, private and gated repositories."""

from tests.hub.messages import Request
from tests.hub.refusals import bad_credentials, gated_repo, repo_not_found
from tests.hub.repo import Repo

#: The token that opens everything, unless a test names another.
DEFAULT_TOKEN = "hf_standInTokenThatOpensEverything"


class Access:
    """The issued tokens, each with the private and gated repositories that it opens (None: all)."""

    def __init__(self, token: str = DEFAULT_TOKEN) -> None:
        self._tokens: dict[str, frozenset[str] | None] = {token: None}

    def issue(self, token: str, *opens: str) -> str:
        """Make a token valid, for these private and gated repositories only, and return it."""
        self._tokens[token] = frozenset(opens)
        return token

    def revoke(self, token: str) -> None:
        """Make a token invalid. Raises KeyError for one that is not issued."""
        del self._tokens[token]

    def token(self, request: Request) -> str | None:
        """The request's token, None for an anonymous one. Raises Refusal for one that is not issued."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if not scheme:
            return None
        if scheme.lower() != "bearer" or token not in self._tokens:
            raise bad_credentials()
        return token

    def check_visible(self, request: Request, repo: Repo | None) -> Repo:
        """The repository, when the caller may know of it. Raises Refusal."""
        token = self.token(request)
        if repo is None or (repo.private and not self._opens(token, repo)):
            raise repo_not_found(signed_in=token is not None)
        return repo

    def check_readable(self, request: Request, repo: Repo) -> None:
        """Raises Refusal unless the caller may read the files of a repository that is visible to them."""
        token = self.token(request)
        if repo.gated and not self._opens(token, repo):
            raise gated_repo(repo.name, signed_in=token is not None)

    def _opens(self, token: str | None, repo: Repo) -> bool:
        if token is None:
            return False
        opens = self._tokens[token]
        return opens is None or repo.name in opens
