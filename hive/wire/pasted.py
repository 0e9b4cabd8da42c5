"""Input normalisation: what people paste where a model reference is wanted, made into one, or refused with what to do.

Problem: people copy an address out of a browser, a command out of a model card, a name out of a chat, with a quote, a
comma or a character that nobody sees. To refuse all of it costs them a search; to guess brings another model than they
meant. So what has one meaning is read as that, and what has none here (a Space, a collection, an Ollama name) is
refused with the step that leads on. Commands and Ollama's names have modules of their own.

What hive itself writes, `hf:org/name/path`, comes out as it went in: the path of a file may end in a comma.
What a reference is when it comes out of here is said by `hive.wire.refs`, and by nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from hive.wire import ollama
from hive.wire.commands import OTHER_KINDS, RefError, of_call, of_command, several

__all__ = ["RefError"]

#: Hosts whose addresses are those of the Hub.
HUB_HOSTS: Final = frozenset(
    {*("huggingface.co", "www.huggingface.co", "hf.co", "www.hf.co", "huggingface.com", "www.huggingface.com")}
)
#: Ports at which they are, with whichever scheme somebody wrote.
HUB_PORTS: Final = frozenset({80, 443})
#: What stands before the revision in an address of the Hub.
HUB_VIEWS: Final = frozenset({"resolve", "blob", "tree", "raw", "blame", "edit", "commits", "commit", "revision"})
#: Revisions of three parts, which stand in an address as they are, or as one.
_REFS: Final = frozenset({"pr", "convert", "heads", "tags"})
_HUB: Final = r"(?:www\.)?(?:huggingface\.com?|hf\.co)\.?(?::(?:80|443))?(?=/)"
#: The Hub's host with a scheme that somebody cut, or mistyped, or none.
_AT_HUB: Final = re.compile(rf"(?:hf:(?://)?)?(?:h[tx]{{1,3}}ps?)?:?/{{0,3}}(?P<rest>{_HUB}/.*)", re.IGNORECASE)
_HUB_IN_TEXT: Final = re.compile(rf"https?://{_HUB}/[^\s\"'<>()\[\]]+", re.IGNORECASE)
#: The scheme of a name at the Hub, as libraries write it, with too few slashes or too many.
_HUB_SCHEME: Final = re.compile(r"(?:hf|hf[-_]hub|huggingface):/{0,3}(?=[^/])", re.IGNORECASE)
#: A scheme of the web that is mistyped.
_ALMOST_URL: Final = re.compile(r"(?!https?://)h[tx]{1,3}ps?(?::/|:?//)", re.IGNORECASE)
#: How a host begins that somebody wrote without a scheme; no organisation of the Hub is called so.
_BARE_HOST: Final = re.compile(
    r"(?:[a-z0-9-]+(?:\.[a-z0-9-]+)*\.(?:com|org|net|cn|io)|(?:\d{1,3}\.){3}\d{1,3}|localhost)(?::\d+)?"
    r"|(?!hf:)[a-z0-9][a-z0-9.-]*:\d{2,5}",
    re.IGNORECASE,
)
#: A model in the Hub's cache: its folder, by itself or with the way to it, and what may stand behind it.
_IN_CACHE: Final = re.compile(
    r"(?:(?:[~.]|[A-Za-z]:)?[\\/](?:[^\\/]+[\\/])*)?(?P<kind>models|datasets)--(?P<org>[^\\/]+?)--(?P<name>[^\\/]+)"
    r"(?:[\\/]snapshots(?:[\\/](?P<commit>[0-9a-f]{40})(?:[\\/](?P<path>.+?))?)?)?[\\/]?"
)
_LOCAL_PATH: Final = re.compile(r"(?:~|\.{1,2})?[\\/].*|[A-Za-z]:[\\/].*", re.DOTALL)
_OF_THIS_MACHINE: Final = (
    "This is a path of this machine: write file:///models/file.gguf. A model is written hf:org/name."
)
_MARKDOWN: Final = re.compile(
    r"!?\[[^\[\]]*\]\(\s*<?([^\s()<>]+(?:\([^\s()]*\)[^\s()<>]*)*)>?(?:\s+[\"'][^\"']*[\"'])?\s*\)"
)
_CLONES: Final = ("git@hf.co:", "git@huggingface.co:", "ssh://git@hf.co/", "ssh://git@huggingface.co/")
#: Addresses by which the Hub's buttons open a model in a program, and the fields that name a file.
_APPS: Final = re.compile(r"(?:lmstudio://open_from_hf|jan://models/huggingface/|msty://models/search/hf/)(.*)", re.I)
#: What is shown in place of a URL's query.
HIDDEN_QUERY: Final = "?..."
_URL_ID: Final = re.compile(r"url/[0-9a-f]{16}(?:/.*)?")
#: Characters that nobody sees: soft hyphens, joiners, marks of direction.
INVISIBLE: Final = "\u00ad\u034f\u061c\u180e\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e" + "".join(
    map(chr, (*range(0x2060, 0x2070), 0xFEFF))
)
#: Blanks, also those that editors and chat programs put around what they copy.
BLANKS: Final = (
    " \t\r\n\v\f\x85\u00a0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B))) + INVISIBLE
)
#: Full-width forms of ASCII, as keyboards for Chinese and Japanese give them, and what nobody sees: how to write them.
_PLAIN: Final = {
    **{0xFF00 + at: 0x20 + at for at in range(1, 0x5F)},
    **dict.fromkeys(map(ord, INVISIBLE)),
    **dict.fromkeys((0xA0, 0x202F, 0x3000), 0x20),
    0x3002: 0x2E,
}
#: What people put around a text that they copy; the longer ones first.
_QUOTES: Final = (
    *(("**", "**"), ("__", "__"), ("``", "``"), ('"', '"'), ("'", "'"), ("`", "`"), ("*", "*"), ("_", "_")),
    *(("<", ">"), ("(", ")"), ("[", "]"), ("{", "}"), ("\u201c", "\u201d"), ("\u201e", "\u201c"), ("\u201e", "\u201d")),
    *(("\u2018", "\u2019"), ("\u201a", "\u2018"), ("\u00ab", "\u00bb"), ("\u00bb", "\u00ab"), ("\u2039", "\u203a")),
    *(("\u300c", "\u300d"), ("\u300e", "\u300f"), ("\u3010", "\u3011"), ("\uff08", "\uff09"), ("\u300a", "\u300b")),
)
_OPENING: Final = "".join({pair[0][0] for pair in _QUOTES})
_CLOSING: Final = {pair[1][0]: pair[0][0] for pair in _QUOTES if pair[1][0] not in "_*"}
#: How a reference or an address begins.
_SCHEME: Final = re.compile(r"(?:hf|https?)\s*[:\uff1a](?:[/\uff0f]{2})?", re.IGNORECASE)
#: Punctuation of the sentence that a reference stood in.
_PUNCTUATION: Final = ",;.!\u2026\u3001\u3002\uff0c\uff1b"
#: Numbers and points of a list, and what names the thing that follows.
_LABEL: Final = re.compile(
    r"(?:[-*+\u2022\u2023\u2013\u2014>]\s+|\d{1,3}[.)]\s+)?"
    r"(?:(?:base[ _-]?model|model(?:[ _-]?(?:id|name|path))?|repo(?:sitory)?(?:[ _-]?id)?|image)\s*[:=]\s*|from\s+"
    r"|--?(?:hfr?|hf-repo|model(?:-id|-path)?|repo-id|m)[ =]\s*)?@?(?P<rest>\S.*/.*)",
    re.IGNORECASE,
)
_QUANT: Final = r"(?:(?:UD|i1)-)?(?:I?Q[1-9]|TQ[12]|BF16|FP?16|FP?32|FP8|MXFP4|NVFP4)(?:[_-][A-Za-z0-9_-]*)?"
#: A repository, and what may stand behind it, with blanks between.
_SPACED: Final = re.compile(
    r"\s*(?P<org>[A-Za-z0-9][\w.-]*)\s*/\s*(?P<name>[A-Za-z0-9][\w.-]*)"
    rf"(?:\s*@\s*(?P<revision>[^\s:]+))?(?:\s*:\s*(?P<behind>\S+)|\s+[\[(]?(?P<quant>{_QUANT})[\])]?)?",
    re.IGNORECASE | re.ASCII,
)
_FENCE: Final = re.compile(r"(?:```|~~~)[^\n`]*\n(.*?)\n?\s*(?:```|~~~)", re.DOTALL)
#: A line that goes on: in a shell, in cmd.exe, in PowerShell.
_CONTINUED: Final = re.compile(r"\s*[\\^`][ \t]*\r?\n\s*")
#: Pages of the Hub that are no model, and what to do instead.
_OTHER_PAGES: Final = {
    "datasets": "A data set's name has two parts behind that word: hf:datasets/org/name.",
    "spaces": OTHER_KINDS["space"],
    "collections": "This is a collection of models: open it and give hive one of them, as hf:org/name.",
    "papers": "This is a paper: its page links to models; give hive one of them, as hf:org/name.",
    "blog": "This is an article: give hive a model that it names, as hf:org/name.",
    "docs": "This is documentation, and no model. Write hf:org/name.",
    "models": "This is a search: open a model of it and give hive that, as hf:org/name.",
    "tasks": "This is a task: open a model of it and give hive that, as hf:org/name.",
    "settings": "This is a page of your account, and no model. Write hf:org/name.",
}
#: Sites with pages like the Hub's, and what to do about a page of theirs; the address of a file is that of a file.
_OTHER_SITES: Final = {
    **dict.fromkeys(
        ("modelscope.cn", "www.modelscope.cn", "modelscope.ai", "www.modelscope.ai"),
        "This is a page of ModelScope: write modelscope:{0} for that. The Hub may have the model: hf:{0}.",
    ),
    "hf-mirror.com": "This is a page of a mirror. Set HF_ENDPOINT=https://hf-mirror.com for hive, and write hf:{}.",
}


def as_written(text: str) -> str:
    """The text without what surrounds a reference in a document, a chat or a shell: on one line, and of a command or a
    call the model that it names.

    Raises:
        RefError: there are several.
    """
    text = text.strip(BLANKS)
    if fence := _FENCE.fullmatch(text):
        text = fence[1]
    text = _CONTINUED.sub(" ", text).strip(BLANKS)
    if text.startswith("hf:") and "\n" not in text:
        return text
    if "\n" in text or "\r" in text:
        return _of_lines(text)
    text = _unwrapped(text)
    if "\\" in text and _IN_CACHE.fullmatch(text):
        return _of_git_or_cache(text)
    return of_command(text) or of_call(text) or text


def _of_lines(text: str) -> str:
    """The one model that is named in several lines. Raises RefError where it is not one."""
    lines = [line for line in (line.strip(BLANKS) for line in re.split(r"[\r\n]+", text)) if line]
    commands = [line for line in lines if not line.startswith(("#", "//"))]
    found = list(dict.fromkeys(ref for line in commands if (ref := of_command(line) or of_call(line)) is not None))
    if not found and (call := of_call(" ".join(commands))):
        found = [call]
    if len(found) == 1:
        return found[0]
    raise several(found) if found else RefError("These are several lines. Give hive one reference at a time.")


def normalise(text: str, endpoint: str = "") -> str:
    """The reference that a text means: `hf:...` or a URL. `endpoint`: the address of a mirror of the Hub.

    Raises:
        RefError: it means something that is no model; the text says what to do.
    """
    _check_hidden(text)
    if scheme_of_hub := _HUB_SCHEME.match(text):
        text = f"hf:{text[scheme_of_hub.end() :]}"
    text = _of_git_or_cache(_plain_head(_trimmed(_unwrapped(text))))
    _check_hidden(text)
    if at_hub := _AT_HUB.fullmatch(text):
        bare = not text.lower().startswith("http")
        text = at_hub["rest"]
        return hub_address(urlsplit(f"https://{text}"), text.removesuffix("?download=true") if bare else "")
    head = text.partition("/")[0].lower()
    scheme = text.partition(":")[0].lower()
    if endpoint and head == urlsplit(endpoint).netloc.lower():
        text, scheme = f"{urlsplit(endpoint).scheme}://{text}", urlsplit(endpoint).scheme
    if scheme in ("http", "https"):
        if endpoint and (found := _at_mirror(text, endpoint)):
            return found
        _check_site(text, endpoint)
        return text
    if ollama.is_name(text):
        raise RefError(ollama.hint(text))
    if _ALMOST_URL.match(text):
        raise RefError("An address begins with https:// or http://. Write it so, or the model as hf:org/name.")
    if _is_below_a_host(text, head):
        raise RefError(
            f"{head[:80]!r} looks like a host: write https:// or http:// before it. A model is written hf:org/name."
        )
    if _LOCAL_PATH.fullmatch(text):
        raise RefError(_OF_THIS_MACHINE)
    return _check_page(text)


def backslash(text: str) -> RefError:
    """What to say of a text with backslashes in it."""
    return RefError(_OF_THIS_MACHINE if _LOCAL_PATH.fullmatch(text) else "Write a model with a slash: hf:org/name.")


def is_hub_host(host: str) -> bool:
    """Whether this host, in small letters, is the Hub's."""
    return host.removesuffix(".") in HUB_HOSTS


def _of_git_or_cache(text: str) -> str:
    """The Hub's name or address in place of git's address, of a folder of the cache, or of a program's own address."""
    if found := _IN_CACHE.fullmatch(text):
        path = f"/{found['path']}".replace("\\", "/") if found["path"] else ""
        commit = f"@{found['commit']}" if found["commit"] else ""
        kind = "" if found["kind"] == "models" else f"{found['kind']}/"
        return f"hf:{kind}{found['org']}/{found['name']}{path}{commit}"
    for prefix in _CLONES:
        if text.startswith(prefix):
            return f"https://hf.co/{text.removeprefix(prefix)}"
    if app := _APPS.fullmatch(text):
        query = parse_qs(app[1].partition("?")[2])
        named = query.get("model", [app[1].partition("?")[0].strip("/")])[0]
        return f"{named}/{query['file'][0]}" if "file" in query else named
    return text


# -- what surrounds a reference ---------------------------------------------------------------------------------------


def _unwrapped(text: str) -> str:
    """Without blanks, quotes and mark-up around it."""
    before = ""
    while text != before:
        before = text = text.strip(BLANKS)
        text = next(_inside(text), text)
        if link := _MARKDOWN.fullmatch(_without_punctuation(text)):
            text = link[1]
    return text


def _inside(text: str) -> Iterator[str]:
    """What stands between a pair of quotes or brackets."""
    for opening, closing in _QUOTES:
        inner = text[len(opening) : -len(closing)]
        if len(inner) > 0 and text == f"{opening}{inner}{closing}" and not (opening == "[" and "](" in inner):
            yield inner


def _trimmed(text: str) -> str:
    """Without the number of a list, a label, punctuation and quotes that are not closed. What hive wrote stays."""
    lower = text.lower()
    if lower.startswith("file:") or (lower.startswith("hf:") and lower.removeprefix("hf://").count("/") > 1):
        return text
    is_url = lower.startswith(("http://", "https://"))
    if not is_url and len(found := set(_HUB_IN_TEXT.findall(text))) == 1:
        text = found.pop()
    elif not is_url and (label := _LABEL.fullmatch(text)):
        text = label["rest"]
    text = text.lstrip(_OPENING + BLANKS)
    if is_url:  # a fragment and an empty query are no part of the reference, and what stands before them is its end
        text = text.partition("#")[0]
        text = text[:-1] if text.find("?") == len(text) - 1 else text
    before = ""
    # A query may be a signature, which ends in anything.
    while text != before and "?" not in text:
        before = text
        text = _without_punctuation(text).strip(BLANKS)
        if (opening := _CLOSING.get(text[-1:])) and _is_unopened(text, opening, text[-1]):
            text = text[:-1]
    return text


def _without_punctuation(text: str) -> str:
    """Without the punctuation at the end; points that stand behind a slash or a blank are a name. In one pass: a text
    of nothing else took a pattern seconds.
    """
    rest = text.rstrip(_PUNCTUATION)
    if rest and rest[-1] != "/" and not rest[-1].isspace():
        return rest
    sentence = text[len(rest) :].lstrip(".,;")
    return text[: len(text) - len(sentence) + 1]


def _is_unopened(text: str, opening: str, closing: str) -> bool:
    """Whether the last of these closing quotes or brackets has none that it closes."""
    return text.count(closing) % 2 == 1 if opening == closing else text.count(opening) < text.count(closing)


def _plain_head(text: str) -> str:
    """The reference without full-width forms, invisible characters, and blanks between its parts. A path in it may hold
    any of them, and stays; the host of a URL goes by rules of its own (`hive.wire.hosts`).
    """
    scheme = _SCHEME.match(text)
    start = scheme.end() if scheme else 0
    written, rest = text[:start].translate(_PLAIN), text[start:]
    if written.lower().startswith("http"):
        return written + rest
    parts = rest.split("/") if "/" in rest else rest.translate(_PLAIN).split("/")
    if len(parts) > 2:
        return written + "/".join((*(part.translate(_PLAIN) for part in parts[:2]), *parts[2:]))
    rest = re.sub("%2f", "/", "/".join(parts).translate(_PLAIN), count=1, flags=re.IGNORECASE)
    if found := _SPACED.fullmatch(rest):
        revision = f"@{found['revision']}" if found["revision"] else ""
        behind = found["behind"] or found["quant"]
        rest = f"{found['org']}/{found['name']}{revision}" + (f":{behind}" if behind else "")
    return written + rest


# -- addresses of the Hub --------------------------------------------------------------------------------------------


def hub_address(parts: SplitResult, written: str = "") -> str:
    """A page or file address of the Hub, as people copy it from the browser, as a reference to the Hub: verified and
    resumable. `written` is what stood there where it had no scheme: then what is no page is a path in a repository.

    Raises:
        RefError: it is no page of a model.
    """
    segments = [unquote(segment) for segment in parts.path.split("/") if segment]
    if segments:
        # The name may have come as one segment, and with what nobody sees; a path stays as it is.
        segments = [*segments[0].translate(_PLAIN).split("/"), *segments[1:]]
        segments[1:2] = [segment.translate(_PLAIN) for segment in segments[1:2]]
    if segments[:2] == ["api", "models"]:
        segments = segments[2:]
    if segments[:2] == ["api", "datasets"]:
        segments = segments[1:]
    _check_segments(segments)
    kind = f"{segments.pop(0)}/" if segments[:1] == ["datasets"] else ""
    if len(segments) < 2:
        raise RefError("This address of the Hub names no model. A model's has two parts: https://hf.co/org/name.")
    repo = f"hf:{kind}{segments[0]}/{segments[1].removesuffix('.git')}"
    if len(segments) == 2:
        shown = parse_qs(parts.query).get("show_file_info")
        return f"{repo}/{shown[0]}@main" if shown else repo
    view, rest = segments[2], segments[3:]
    if any(segment.endswith(("http:", "https:")) for segment in rest):
        raise RefError("This names several models. Give hive one reference at a time.")
    if view in HUB_VIEWS:
        return _of_view(repo, view, rest, parts.query)
    if written:
        return f"hf:{written.partition('/')[2]}"
    if segments[1] in HUB_VIEWS:
        raise RefError("A model's name has two parts. Open this page, and give hive the address that it leads to.")
    raise RefError(f"This page of the Hub is no model's and no file's. Its model is {repo[:200]}.")


def _of_view(repo: str, view: str, rest: list[str], query: str) -> str:
    """The reference of `<repo>/<view>/<revision>/<path>`; a `tree` is a folder, whose path ends in a slash."""
    if not rest:
        return repo
    parts = 3 if rest[0] == "refs" and len(rest) > 2 and rest[1] in _REFS else 1
    revision, path = "/".join(rest[:parts]), "/".join(rest[parts:])
    if view in ("commit", "commits"):
        path = ""
    shown = parse_qs(query).get("show_file_info")
    if shown:
        path = shown[0]
    elif path and view == "tree":
        path += "/"
    return f"{repo}/{path}@{revision}" if path else f"{repo}@{revision}"


def _at_mirror(text: str, endpoint: str) -> str | None:
    """The reference of an address of the mirror that is set as HF_ENDPOINT, where it plainly is a model's page or file;
    None where it may be any file of that host.
    """
    ours = urlsplit(endpoint)
    try:
        theirs = urlsplit(text)
    except ValueError:
        return None  # brackets around no address, letters that become a "/": what is said of it is said of any URL
    base = ours.path.rstrip("/")
    if theirs.netloc.lower() != ours.netloc.lower() or not theirs.path.startswith(f"{base}/"):
        return None
    parts = theirs._replace(path=theirs.path[len(base) :])
    segments = [segment for segment in parts.path.split("/") if segment]
    if segments[:1] == ["datasets"] and len(segments) > 2:
        segments = segments[1:]
    is_page = len(segments) == 2 and "." not in segments[0] and not _looks_like_file(segments[1])
    if is_page or (len(segments) > 3 and segments[2] in HUB_VIEWS):
        return hub_address(parts)
    return None


def _is_below_a_host(text: str, head: str) -> bool:
    """Whether `head`, what stands before the first slash, is a host: by its form, and what stands behind it."""
    is_file_or_deep = text.count("/") > 1 or _looks_like_file(text)
    return "/" in text and (is_file_or_deep or ":" in head) and _BARE_HOST.fullmatch(head) is not None


def _check_hidden(text: str) -> None:
    """What hive prints of a plain URL is not all of it; that it is a name of hive's is known by its form."""
    if text.endswith(HIDDEN_QUERY):
        raise RefError("hive does not show or keep the query of a URL ('?...'). Give the whole URL again.")
    if _URL_ID.fullmatch(text):
        raise RefError("This names a file from a URL that is in the store. To fetch it, give its URL (`hive show`).")


def _check_page(text: str) -> str:
    """A reference without a host, unless its first part is no organisation but a part of the Hub's site."""
    segments = text.removeprefix("hf:").removeprefix("//").split("/")
    if not (text.startswith("hf:spaces/") and len(segments) > 2):
        _check_segments(segments)
    return text


def _check_segments(segments: list[str]) -> None:
    if segments[0:1] == ["datasets"] and len(segments) > 2:
        return
    if len(segments) > 1 and (sentence := _OTHER_PAGES.get(segments[0])):
        raise RefError(sentence)
    if len(segments) == 1 and segments[0] in _OTHER_PAGES:
        raise RefError(_OTHER_PAGES[segments[0]])


def _check_site(text: str, endpoint: str) -> None:
    """Raise RefError for a page of another site that shows models, where an address of a file is wanted."""
    if ollama.is_name(text):
        raise RefError(ollama.hint(text))
    host, _, path = text.partition("://")[2].partition("?")[0].partition("/")
    if (sentence := _OTHER_SITES.get(host.lower())) and host.lower() not in endpoint.lower():
        segments = [segment for segment in path.split("/") if segment]
        segments = segments[1:] if segments[:1] == ["models"] else segments
        if len(segments) == 2 or (len(segments) > 2 and segments[2] in {"tree", "blob", "files", "summary", "file"}):
            raise RefError(sentence.format("/".join(segments[:2])[:120]))


def _looks_like_file(name: str) -> bool:
    return bool(FILE_ENDING.search(name))


#: The ending of a file's name, as quantisations, branches and tags do not have one.
FILE_ENDING: Final = re.compile(r"\.(?:[A-Za-z][A-Za-z0-9]{1,11}|h5|7z|gguf-split-[a-z]+)$")
