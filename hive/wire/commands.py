"""Commands and calls of model cards: the one model that a pasted command line or line of Python names.

Problem: a model card shows `hf download org/name`, `git clone https://...`, `from_pretrained("org/name")`, with a
prompt before it, variables, `sudo`, and `&& ls` behind it. The easy way, to look for anything with a slash in it, takes
folders, images and prompts for models. So a line is cut into its commands as a shell does, a program is known by its
name, and what it must be told so that it means a model is in a table here.

A command that names several models or files is refused with the command that hive has for them.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from typing import Final

from hive.wire import ollama


class RefError(ValueError):
    """A reference that is not valid; the text says why and how to write it, and shows no token that was pasted."""

    def __init__(self, text: str) -> None:
        super().__init__(_TOKEN.sub("hf_...", text))


#: A token of the Hub, which people paste along with a command.
_TOKEN: Final = re.compile(r"hf_[A-Za-z0-9]{4,}")

#: Programs that fetch or run models, and the words that must follow so that they mean one ("" for none).
_VERBS: Final = {
    **dict.fromkeys(("hf", "huggingface-cli"), ("download",)),
    **dict.fromkeys(("ollama", "docker model"), ("run", "pull")),
    "hive": ("pull",),
    "git": ("clone",),
    **dict.fromkeys(("vllm", "trtllm-serve"), ("serve", "")),
    "lms": ("get", "load"),
    "aria2c": ("",),
    "curl": ("",),
    "wget": ("",),
}
_DOWNLOADERS: Final = frozenset({"wget", "curl", "aria2c"})
#: Options that name a model for any program; the last ones mean a file to llama.cpp and its like.
_MODEL_OPTIONS: Final = ("-hf", "-hfr", "--hf-repo", "--repo-id", "--model-id", "--model-path", "--model", "-m")
_FILE_OPTIONS: Final = ("-hff", "--hf-file")
_REVISION_OPTIONS: Final = ("--revision", "--branch", "-b")
#: Options of those commands that take no value.
_SWITCHES: Final = frozenset(
    {
        *("--quiet", "--force-download", "--update", "-q", "--resume-download", "--dry-run", "--recursive"),
        *("--recurse-submodules", "--single-branch", "-v", "--verbose", "-y", "--yes", "--rm", "-it", "-d", "-i", "-t"),
        *("--trust-remote-code", "--gguf", "--mlx", "--insecure", "--progress", "--no-checkout", "-n"),
    }
)
#: What may stand before a program: whoever runs it.
_RUNNERS: Final = frozenset({"sudo", "env", "export", "time", "nohup", "uvx", "uv", "run", "pipx", "tool", "x", "exec"})
_RUNNER_OPTIONS: Final = frozenset({"--from", "--with", "-u", "--python", "-p"})
_VARIABLE: Final = re.compile(r"(?:\$env:)?[A-Za-z_][A-Za-z0-9_]*=\S*")
#: Where a command may begin behind a prompt.
_STARTS: Final = re.compile(r"^|[$%#>\u276f\u279c]\s+(?:~\S*\s+)?|^[!%]")
#: Characters in which a prompt ends, and the most prompts that are tried.
MAX_PROMPT_CHARS: Final = 160
MAX_STARTS: Final = 8
#: Models and files that an error lists.
MAX_SHOWN: Final = 20
#: What ends a command of a line, and what sends its output elsewhere.
_SEPARATORS: Final = frozenset({";", "&&", "||", "|", "&"})
_REDIRECTION: Final = re.compile(r"[0-9&]?[<>].*")
_REPO: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*(?:[:@/][^\s'\"]*)?")
_URL: Final = re.compile(r"https?://\S+", re.IGNORECASE)

_CALL: Final = re.compile(r"[\w.\s,=\[\]]{0,120}?[A-Za-z_]\w*\((?P<arguments>.*)\)[\s.\w()]{0,40}", re.DOTALL)
#: Names of functions whose arguments name a model.
_CALLS: Final = re.compile(
    r"\b(?:from_pretrained|snapshot_download|hf_hub_download|hf_hub_url|try_to_load_from_cache|pipeline|LLM|load"
    r"|SentenceTransformer|CrossEncoder|SparseEncoder|AutoModel\w*|AutoTokenizer|WhisperModel|Llama|InferenceClient"
    r"|load_model|load_dataset|create_model)\s*\("
)
_ARGUMENT: Final = re.compile(r"(?:\b(?P<name>\w+)\s*=\s*)?(?P<quote>[\"'])(?P<value>[^\"']*)(?P=quote)")
_REPO_ARGUMENTS: Final = frozenset(
    {"", "repo_id", "model", "model_id", "pretrained_model_name_or_path", "model_name_or_path"}
)


def of_command(text: str) -> str | None:
    """The reference in a command line that somebody copied; None where it is none, or means no model.

    Raises:
        RefError: it names several models or files, or something that is no model.
    """
    found = list(dict.fromkeys(_found(text)))
    if len(found) > 1:
        raise several(found)
    return found[0] if found else None


def of_call(text: str) -> str | None:
    """The reference in a line of Python such as `snapshot_download("org/name")`; None where there is none.

    Raises:
        RefError: it names several models.
    """
    call = _CALL.fullmatch(text)
    if call is None or not _CALLS.search(text):
        return None
    given = [(found["name"] or "", found["value"]) for found in _ARGUMENT.finditer(text[text.index("(") :])]
    repos = list(dict.fromkeys(v for name, v in given if name in _REPO_ARGUMENTS and _REPO.fullmatch(v)))
    if len(repos) > 1:
        raise several(repos)
    if not repos:
        return None
    options = dict(given)
    kind = "dataset" if "load_dataset" in text else options.get("repo_type", "")
    subfolder = f"{options['subfolder']}/" if options.get("subfolder") else ""
    path = f"/{subfolder}{options['filename']}" if options.get("filename") else f"/{subfolder}" if subfolder else ""
    revision = options.get("revision")
    found = f"{_of_kind(kind, repos[0])}{path}"
    return f"{found}@{revision}" if revision else found


def several(refs: Sequence[str]) -> RefError:
    """The error for a text with several models. The query of a URL may be a signature, and a user's part a password."""
    shown = (re.sub(r"//[^/@]*@", "//", ref.partition("?")[0]) for ref in refs[:MAX_SHOWN])
    return RefError(f"This names several models. Write: hive pull {' '.join(shown)}.")


def _found(text: str) -> Iterator[str]:
    """The references that the commands of a line name."""
    for start in [found.end() for found in _STARTS.finditer(text[:MAX_PROMPT_CHARS])][:MAX_STARTS]:
        prompt, line = text[:start], text[start:].strip()
        if " " not in line or "://" in prompt or prompt.lower().startswith("hf:"):
            continue
        try:
            words = shlex.split(line)
        except ValueError:
            continue
        named = [ref for command in _commands(words) if (ref := _of_words(command)) is not None]
        if named:
            yield from named
            return


def _commands(words: list[str]) -> Iterator[list[str]]:
    """The commands of a line, each as its words; without where their output goes, and comments."""
    command: list[str] = []
    rest = iter(words)
    for word in rest:
        if word in _SEPARATORS or (word.endswith(";") and len(word) > 1):
            yield [*command, *([word[:-1]] if word not in _SEPARATORS else [])]
            command = []
        elif _REDIRECTION.fullmatch(word) and "/" not in word.rstrip(">"):
            if word[-1] in "<>":
                next(rest, None)
        elif word.startswith("#") and command:
            break
        else:
            command.append(word)
    yield command


def _of_words(words: list[str]) -> str | None:
    """The reference that one command names."""
    words = _without_runner(words)
    if len(words) < 2 or "://" in words[0] or words[0].startswith("hf:"):
        return None
    program = words[0].rpartition("/")[2].removesuffix(".exe").lower()
    if program == "docker" and words[1] == "model":
        program, words = "docker model", words[1:]
    elif program == "git" and words[1] == "lfs":
        words = words[1:]
    verbs = _VERBS.get(program)
    if verbs is None:
        return _of_options(words[1:]) if re.fullmatch(r"[a-z][a-z0-9_.-]*", program) else None
    verb = next((at for at, word in enumerate(words[1:4], start=1) if word in verbs), 0 if "" in verbs else None)
    if verb is None:
        return None
    rest = words[verb + 1 :]
    return _of_downloader(rest) if program in _DOWNLOADERS else _of_fetcher(program, rest)


def _without_runner(words: list[str]) -> list[str]:
    """Without variables, and without who runs the program."""
    at = 0
    while at < len(words):
        if words[at] in _RUNNER_OPTIONS and at:
            at += 2
        elif words[at] in _RUNNERS or _VARIABLE.fullmatch(words[at]):
            at += 1
        else:
            break
    return words[at:]


def _of_downloader(words: list[str]) -> str | None:
    """The one URL among these words. Raises RefError where there are several."""
    urls = list(dict.fromkeys(word for word in words if _URL.fullmatch(word)))
    if len(urls) > 1:
        raise RefError("This command names several files. Give hive one of the addresses at a time.")
    return urls[0] if urls else None


def _of_options(words: list[str]) -> str | None:
    """The model that a program is told by an option; a file of this machine is none."""
    _, options = _options(words)
    model = next((options[name] for name in _MODEL_OPTIONS if name in options), None)
    if model is None or not (_URL.fullmatch(model) or _REPO.fullmatch(model)):
        return None
    if model.lower().endswith((".gguf", ".bin", ".safetensors")) and not _URL.fullmatch(model):
        return None
    return _with_files(model, [options[name] for name in _FILE_OPTIONS if name in options], options)


def _of_fetcher(program: str, words: list[str]) -> str | None:
    """The model that a program of the table is given, as a word or by an option."""
    plain, options = _options(words)
    if not plain or plain[0] in _VERBS:
        return _of_options(words)
    name, others = plain[0], plain[1:]
    if "ollama" in program and "/" not in name:
        raise RefError(ollama.hint(name))
    if program == "lms":
        name = re.sub(r"@(?=[^@/]*$)", ":", name)  # a quantisation, for LM Studio
    if program == "hive" and others:
        raise several(plain)
    name = _of_kind(options.get("--repo-type", options.get("--type", "")), name)
    patterns = [(option, options[option]) for option in ("--include", "--exclude") if option in options]
    if patterns:
        written = " ".join(f"{option} {shlex.quote(value)}" for option, value in patterns)
        raise RefError(f"This command names several files. Write: hive pull {name} {written}.")
    files = others if program in ("hf", "huggingface-cli") else []
    return _with_files(name, files + [options[name] for name in _FILE_OPTIONS if name in options], options)


#: What a Space, where `--repo-type` or an address says that it is one, is refused with: few mean its files.
OTHER_KINDS: Final = {
    "space": "This is a Space, a program: its page names the models it uses. Its own files are hf:spaces/org/name.",
}


def _of_kind(kind: str, name: str) -> str:
    """The reference to a repository of a kind that was named beside it. Raises RefError for what few mean."""
    if sentence := OTHER_KINDS.get(kind):
        raise RefError(sentence)
    return f"datasets/{name}" if kind == "dataset" else name


def _with_files(name: str, files: list[str], options: dict[str, str]) -> str:
    """A repository with the one file and the revision that were named beside it. Raises RefError for several files."""
    if len(files) > 1:
        written = " ".join(f"--include {shlex.quote(file)}" for file in files[:MAX_SHOWN])
        raise RefError(f"This command names several files. Write: hive pull {name} {written}.")
    revision = next((options[option] for option in _REVISION_OPTIONS if option in options), None)
    ref = "/".join((name, *files))
    return f"{ref}@{revision}" if revision else ref


def _options(words: list[str]) -> tuple[list[str], dict[str, str]]:
    """The words that are no options, and the options with their values."""
    plain: list[str] = []
    options: dict[str, str] = {}
    rest = iter(words)
    for word in rest:
        name, equals, value = word.partition("=")
        if not word.startswith("-") or word == "-":
            plain.append(word)
        elif equals:
            options[name] = value
        elif word not in _SWITCHES:
            options[name] = next(rest, "")
    return plain, options
