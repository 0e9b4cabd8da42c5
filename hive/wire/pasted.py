"""Input normalisation: what people paste where a model reference is wanted, made into one, or refused with what to do.

Problem: people copy an address out of a browser, a command out of a model card, a name out of another tool. To refuse
all of it costs them a search; to guess brings another model than they meant. So what has one meaning is read as that,
and what has none here (a data set, a collection, an Ollama name) is refused with the step that leads on.

What a reference is when it comes out of here is said by `hive.wire.refs`, and by nothing else.
"""

from __future__ import annotations

import re
import shlex
from typing import Final
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

#: Hosts whose addresses are those of the Hub.
HUB_HOSTS: Final = frozenset(
    {*("huggingface.co", "www.huggingface.co", "hf.co", "www.hf.co", "huggingface.com", "www.huggingface.com")}
)
#: What stands before the revision in an address of the Hub.
HUB_VIEWS: Final = frozenset({"resolve", "blob", "tree", "raw", "blame", "edit", "commits", "commit", "revision"})
#: Revisions of three parts, which stand in an address as they are, or as one.
_REFS: Final = frozenset({"pr", "convert", "heads", "tags"})
#: How a host begins that somebody wrote without a scheme; no organisation of the Hub is called so.
_BARE_HOST: Final = re.compile(r"[a-z0-9-]+(?:\.[a-z0-9-]+)*\.(?:com|org|net|cn)(?::\d+)?", re.IGNORECASE)
#: A folder of the cache, which names a model.
_CACHE_FOLDER: Final = re.compile(r"models--([^/]+?)--([^/]+)/?")
_MARKDOWN: Final = re.compile(r"\[[^\[\]]*\]\(([^\s()]+)\)")
_CLONES: Final = ("git@hf.co:", "git@huggingface.co:", "ssh://git@hf.co/", "ssh://git@huggingface.co/")
#: What is shown in place of a URL's query.
HIDDEN_QUERY: Final = "?..."
_URL_ID: Final = re.compile(r"url/[0-9a-f]{16}(?:/.*)?")
#: Blanks, also those that editors and chat programs put around what they copy.
BLANKS: Final = " \t\r\n\v\f\u00a0\u2028\u2029\u200b\u200c\u200d\u2060\u3000\ufeff"
#: What people put around a text that they copy.
_QUOTES: Final = {'"': '"', "'": "'", "`": "`", "<": ">", "\u201c": "\u201d", "\u2018": "\u2019", "\u00ab": "\u00bb"}
_COMMAND: Final = re.compile(
    # A prompt, variables, what runs another program, a folder.
    r"(?:\$\s+)?(?:[A-Z_][A-Z0-9_]*=\S*\s+)*(?:(?:sudo|uvx|uv\s+run|pipx\s+run)\s+)*(?:\.{0,2}/(?:\S*/)?)?"
    r"(?P<program>hf|huggingface-cli|hive|ollama|git|llama-cli|llama-server|vllm|lms|wget|curl|aria2c|docker|python3?)"
    r"\s+(?P<rest>.+)",
    re.DOTALL,
)
#: Options of those commands that take no value.
_SWITCHES: Final = frozenset({"--quiet", "--force-download", "--update", "-q", "--resume-download", "--dry-run"})
_MODEL_OPTIONS: Final = ("-hf", "-hfr", "--hf-repo", "--repo-id")
#: Programs that name a model by `--model`; llama.cpp means a file by it.
_MODEL_BY_NAME: Final = frozenset({"python", "python3", "docker", "vllm"})
_FILE_OPTIONS: Final = ("-hff", "--hf-file")
#: What a program must be told to do so that it means a model.
_VERBS: Final = {
    **dict.fromkeys(("hf", "huggingface-cli"), ("download",)),
    **dict.fromkeys(("ollama", "docker model"), ("run", "pull")),
    "hive": ("pull",),
    "git": ("clone",),
    "vllm": ("serve",),
    "lms": ("get",),
}
_DOWNLOADERS: Final = frozenset({"wget", "curl", "aria2c"})
_OLLAMA_NAME: Final = re.compile(r"[a-z][a-z0-9._-]*(?::[A-Za-z0-9][A-Za-z0-9._-]*)?")
_OLLAMA_HOSTS: Final = ("ollama.com/", "www.ollama.com/", "registry.ollama.ai/", "ollama.ai/")
_OLLAMA_PAGE: Final = re.compile(r"https?://(?:www\.)?ollama\.com/library/[^/]+$", re.IGNORECASE)
#: Ollama's families and the Hub's repositories of the same models. `{}` is the size, with its first letter in capitals.
_OLLAMA_FAMILIES: Final = {
    "llama3.2": "bartowski/Llama-3.2-{}-Instruct-GGUF",
    "llama3.1": "bartowski/Meta-Llama-3.1-{}-Instruct-GGUF",
    "llama3.3": "bartowski/Llama-3.3-{}-Instruct-GGUF",
    "qwen2.5": "Qwen/Qwen2.5-{}-Instruct-GGUF",
    "qwen2.5-coder": "Qwen/Qwen2.5-Coder-{}-Instruct-GGUF",
    "qwen3": "Qwen/Qwen3-{}-GGUF",
    "gemma2": "bartowski/gemma-2-{}-it-GGUF",
    "gemma3": "ggml-org/gemma-3-{}-it-GGUF",
    "deepseek-r1": "unsloth/DeepSeek-R1-Distill-Qwen-{}-GGUF",
    "mistral": "bartowski/Mistral-7B-Instruct-v0.3-GGUF",
    "phi4": "microsoft/phi-4-gguf",
    "tinyllama": "TheBloke/TinyLlama-1.1B-Chat-v1.0-GGUF",
    "nomic-embed-text": "nomic-ai/nomic-embed-text-v1.5-GGUF",
}
#: What such a name means without a tag.
_OLLAMA_SIZES: Final = {
    "llama3.2": "3B",
    "llama3.1": "8B",
    "llama3.3": "70B",
    "qwen2.5": "7B",
    "qwen2.5-coder": "7B",
    "qwen3": "8B",
    "gemma2": "9b",
    "gemma3": "4b",
    "deepseek-r1": "7B",
}
#: Pages of the Hub that are no model, and what to do instead.
_OTHER_PAGES: Final = {
    "datasets": "This is a data set; hive brings models. Fetch it with `hf download --repo-type dataset`.",
    "spaces": "This is a Space, a program; hive brings models. Its page names those that it uses.",
    "collections": "This is a collection of models: open it and give hive one of them, as hf:org/name.",
    "papers": "This is a paper: its page links to models; give hive one of them, as hf:org/name.",
    "blog": "This is an article: give hive a model that it names, as hf:org/name.",
    "docs": "This is documentation, and no model. Write hf:org/name.",
    "models": "This is a search: open a model of it and give hive that, as hf:org/name.",
    "tasks": "This is a task: open a model of it and give hive that, as hf:org/name.",
    "settings": "This is a page of your account, and no model. Write hf:org/name.",
}


class RefError(ValueError):
    """A reference that is not valid; the text says why and how to write it."""


def normalise(text: str, endpoint: str = "") -> str:
    """The reference that a pasted text means: `hf:...` or a URL. `endpoint`: the address of a mirror of the Hub.

    Raises:
        RefError: it means something that is no model; the text says what to do.
    """
    text = _unwrapped(text)
    if command := _COMMAND.fullmatch(text):
        text = _of_command(command["program"], command["rest"]) or text
    text = _of_git_or_cache(text)
    _check_hidden(text)
    head = text.partition("/")[0].lower()
    scheme = text.partition(":")[0].lower()
    if head in HUB_HOSTS:
        return hub_address(urlsplit(f"https://{text}"), text.removesuffix("?download=true"))
    if endpoint and head == urlsplit(endpoint).netloc.lower():
        text, scheme = f"{urlsplit(endpoint).scheme}://{text}", urlsplit(endpoint).scheme
    if scheme in ("http", "https"):
        if _OLLAMA_PAGE.match(text):
            raise RefError(_ollama_hint(text))
        if endpoint and (found := _at_mirror(text, endpoint)):
            return found
        return text
    if scheme == "ollama" or head + "/" in _OLLAMA_HOSTS or _is_ollama_name(text):
        raise RefError(_ollama_hint(text))
    if text.count("/") > 1 and _BARE_HOST.fullmatch(head):
        raise RefError(f"{head[:80]!r} looks like a host: write https:// before it. A model is written hf:org/name.")
    return _check_page(text)


def _of_git_or_cache(text: str) -> str:
    """The Hub's name or address in place of git's address, or of a folder of the cache."""
    if folder := _CACHE_FOLDER.fullmatch(text):
        return f"hf:{folder[1]}/{folder[2]}"
    for prefix in _CLONES:
        if text.startswith(prefix):
            return f"https://hf.co/{text.removeprefix(prefix)}"
    return text


def _unwrapped(text: str) -> str:
    """Without blanks and quotes around it."""
    text = text.strip(BLANKS)
    while len(text) > 1 and _QUOTES.get(text[0]) == text[-1]:
        text = text[1:-1].strip(BLANKS)
    if link := _MARKDOWN.fullmatch(text):
        text = link[1]
    return text


# -- addresses of the Hub --------------------------------------------------------------------------------------------


def hub_address(parts: SplitResult, written: str = "") -> str:
    """A page or file address of the Hub, as people copy it from the browser, as a reference to the Hub: verified and
    resumable. `written` is what stood there where it had no scheme: then what is no page is a path in a repository.

    Raises:
        RefError: it is no page of a model.
    """
    segments = [unquote(segment) for segment in parts.path.split("/") if segment]
    _check_segments(segments)
    if segments[:2] == ["api", "models"]:
        segments = segments[2:]
    if len(segments) < 2:
        raise RefError("This address of the Hub names no model. A model's has two parts: https://hf.co/org/name.")
    repo = f"hf:{segments[0]}/{segments[1].removesuffix('.git')}"
    if len(segments) == 2:
        shown = parse_qs(parts.query).get("show_file_info")
        return f"{repo}/{shown[0]}@main" if shown else repo
    view, rest = segments[2], segments[3:]
    if view in HUB_VIEWS:
        return _of_view(repo, view, rest, parts.query)
    if written:
        return f"hf:{written.partition('/')[2]}"
    raise RefError("This address of the Hub names no model or file.")


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
    ours, theirs = urlsplit(endpoint), urlsplit(text)
    base = ours.path.rstrip("/")
    if theirs.netloc.lower() != ours.netloc.lower() or not theirs.path.startswith(f"{base}/"):
        return None
    parts = theirs._replace(path=theirs.path[len(base) :])
    segments = [segment for segment in parts.path.split("/") if segment]
    is_page = len(segments) == 2 and "." not in segments[0] and not _looks_like_file(segments[1])
    if is_page or (len(segments) > 3 and segments[2] in HUB_VIEWS):
        return hub_address(parts)
    return None


def _check_hidden(text: str) -> None:
    """What hive prints of a plain URL is not all of it; that it is a name of hive's is known by its form."""
    if text.endswith(HIDDEN_QUERY):
        raise RefError("hive does not show or keep the query of a URL ('?...'). Give the whole URL again.")
    if _URL_ID.fullmatch(text):
        raise RefError("This names a file from a URL that is in the store. To fetch it, give its URL (`hive show`).")


def _check_page(text: str) -> str:
    """A reference without a host, unless its first part is no organisation but a part of the Hub's site."""
    _check_segments(text.removeprefix("hf:").removeprefix("//").split("/"))
    return text


def _check_segments(segments: list[str]) -> None:
    if len(segments) > 1 and (sentence := _OTHER_PAGES.get(segments[0])):
        raise RefError(sentence)
    if len(segments) == 1 and segments[0] in _OTHER_PAGES:
        raise RefError(_OTHER_PAGES[segments[0]])


# -- commands --------------------------------------------------------------------------------------------------------


def _of_command(program: str, rest: str) -> str | None:
    """The reference in a command that somebody copied out of a model card; None where it is none.

    Raises:
        RefError: it names several files.
    """
    try:
        words = shlex.split(rest)
    except ValueError:
        return None
    if program in _DOWNLOADERS:
        return _of_downloader(words)
    program, found = _after_verb(program, words)
    if found is None:
        return None
    plain, options = _options(found)
    names = (*_MODEL_OPTIONS, "--model", "--model-path") if program in _MODEL_BY_NAME else _MODEL_OPTIONS
    model = next((options[name] for name in names if name in options), None)
    if model is None and program.startswith(("llama-", "python", "docker")) and program != "docker model":
        return None
    named = [model, *plain] if model else plain
    if not named:
        return None
    if program == "ollama" and "/" not in named[0]:
        raise RefError(_ollama_hint(named[0]))
    files = named[1:] if program in ("hf", "huggingface-cli") else []
    files += [options[name] for name in _FILE_OPTIONS if name in options]
    if len(files) > 1 or {"--include", "--exclude"} & set(options):
        raise RefError(f"This command names several files. Give {named[0]}, and them as include patterns.")
    ref = "/".join((named[0], *files))
    revision = options.get("--revision")
    if options.get("--repo-type") in ("dataset", "space"):
        raise RefError(_OTHER_PAGES[f"{options['--repo-type']}s"])
    return f"{ref}@{revision}" if revision else ref


def _after_verb(program: str, words: list[str]) -> tuple[str, list[str] | None]:
    """The program and its words without the one that says what it does; None where it does something else."""
    if program == "docker" and words[:1] == ["model"]:
        program, words = "docker model", words[1:]
    if program == "git" and words[:1] == ["lfs"]:
        words = words[1:]
    verbs = _VERBS.get(program)
    if verbs is None:
        return program, words
    return program, words[1:] if words and words[0] in verbs else None


def _of_downloader(words: list[str]) -> str | None:
    """The one URL among these words. Raises RefError where there are several."""
    urls = [word for word in words if word.lower().startswith(("http://", "https://"))]
    if len(urls) > 1:
        raise RefError("This command names several files. Give hive one of the addresses at a time.")
    return urls[0] if urls else None


def _options(words: list[str]) -> tuple[list[str], dict[str, str]]:
    """The words that are no options, and the options with their values."""
    plain: list[str] = []
    options: dict[str, str] = {}
    rest = iter(words)
    for word in rest:
        name, equals, value = word.partition("=")
        if not word.startswith("-"):
            plain.append(word)
        elif equals:
            options[name] = value
        elif word not in _SWITCHES:
            options[name] = next(rest, "")
    return plain, options


# -- Ollama ----------------------------------------------------------------------------------------------------------


def _is_ollama_name(text: str) -> bool:
    """Whether this is a name such as `llama3.2:3b`: no slash, and a tag or a family that is known."""
    if "/" in text or not _OLLAMA_NAME.fullmatch(text):
        return False
    family, _, tag = text.partition(":")
    if family == "hf":
        return False
    return family in _OLLAMA_FAMILIES or (bool(tag) and any(char.isdigit() for char in text))


def _ollama_hint(text: str) -> str:
    """What to write for an Ollama name."""
    for host in _OLLAMA_HOSTS:
        text = text.removeprefix("https://").removeprefix(host)
    name = text.removeprefix("ollama:").removeprefix("//").removeprefix("library/")
    family, _, tag = name.partition(":")
    size = re.match(r"(\d+(?:\.\d+)?)([bm])", tag, re.IGNORECASE)
    default = _OLLAMA_SIZES.get(family, "")
    big = default.isupper()
    shown = f"{size[1]}{size[2].upper() if big else size[2].lower()}" if size else default
    if repo := _OLLAMA_FAMILIES.get(family):
        way = f"The Hub has the model as hf:{repo.format(shown)}"
    else:
        way = f"Look for it at https://huggingface.co/models?search={re.sub(r'[^A-Za-z0-9._-]+', '+', family)}+gguf"
    return f"{name[:60]!r} is a name of Ollama's registry, which hive does not ask. {way}."


def _looks_like_file(name: str) -> bool:
    return bool(FILE_ENDING.search(name))


#: The ending of a file's name, as quantisations, branches and tags do not have one.
FILE_ENDING: Final = re.compile(r"\.(?:[A-Za-z][A-Za-z0-9]{1,11}|h5|7z|gguf-split-[a-z]+)$")
