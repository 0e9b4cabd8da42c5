"""The variables of the environment as settings read them: their older and other names, files in their place, switches.

Problem: people know variables by the names that huggingface_hub and other tools have for them, orchestrators bring
secrets as files, and `~` and `yes` mean what they mean elsewhere. The easy way, a case for each in the list of the
settings, hides the list. So here are the ways to say a setting, and hive/settings.py has what there is to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, get_args, get_origin

import msgspec

from hive.given_file import read_given_file
from hive.net.proxies import NAMES, chosen_proxies
from hive.net.tls import is_null_device
from hive.net.variables import bare, expanded

#: The settings that are paths: `~` and `$VAR` in them are read as huggingface_hub and shells read them.
_PATHS: Final = (
    *("HIVE_STORE", "HIVE_HOME", "HIVE_AUDIT_LOG", "HIVE_SECRET_KEY_FILE", "HIVE_API_KEYS_FILE", "HIVE_API_KEY_FILE"),
    *("HIVE_REDIS_CA_FILE", "HIVE_REDIS_CERT_FILE", "HIVE_REDIS_KEY_FILE"),
    "HIVE_LLAMA_SERVER",
    *("HF_HOME", "HF_HUB_CACHE", "HF_TOKEN_PATH", "XDG_CACHE_HOME"),
)

#: Older names of settings, which huggingface_hub reads where the present one is not set.
OLD_NAMES: Final = {
    "HF_HUB_CACHE": "HUGGINGFACE_HUB_CACHE",
    "HF_TOKEN": "HUGGING_FACE_HUB_TOKEN",
    "HF_HUB_OFFLINE": "TRANSFORMERS_OFFLINE",
}

#: Names of ours that win over those that other programs read too.
OWN_NAMES: Final = {"REDIS_URL": "HIVE_REDIS_URL", "SSL_CERT_FILE": "HIVE_CA_FILE"}

#: Settings that may be read from a file instead, which a variable of this name names: secrets of an orchestrator.
SECRET_FILES: Final = {
    "REDIS_URL": "HIVE_REDIS_URL_FILE",
    "HF_TOKEN": "HF_TOKEN_FILE",
    "HIVE_WEBHOOK_SECRET": "HIVE_WEBHOOK_SECRET_FILE",
}

#: Settings that name a file, where /dev/null stands for none: a compose file mounts something in any case.
_OPTIONAL_FILES: Final = (
    *(*SECRET_FILES.values(), "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "HIVE_CA_FILE"),
    *("HIVE_REDIS_CA_FILE", "HIVE_REDIS_CERT_FILE", "HIVE_REDIS_KEY_FILE"),
)

#: Bytes of the longest of them.
MAX_SECRET_FILE_BYTES: Final = 16_384

#: Words for on and off that other tools take.
_SWITCHES: Final = {"yes": "1", "on": "1", "no": "0", "off": "0"}


class UnusableVariable(ValueError):
    """A variable, or a file that stands for one, cannot be used; the text names the variable, and nothing secret."""


def read_environment(environment: Mapping[str, str], kinds: Mapping[str, object]) -> dict[str, str]:
    """The value of each variable that is set, whichever way; `kinds` has their types. An empty variable counts as not
    set; an empty proxy in lower case unsets the one in upper case.

    Raises:
        UnusableVariable: a value is no text, or a file that is named in the place of one cannot be used.
    """
    said = {name: bare(value) for name, value in environment.items()}
    given = {name: value for name, value in said.items() if not _names_no_file(name, value)}
    values = {old: value for old, name in OLD_NAMES.items() if (value := given.get(name))}
    values |= {name: value for name, value in given.items() if name in kinds and value != ""}
    values |= {other: value for other, name in OWN_NAMES.items() if (value := given.get(name))}
    for other, name in SECRET_FILES.items():
        if other not in values and given.get(name):
            values[other] = _secret_in(expanded(given[name], given), name)
    _read_words(values, kinds, given)
    values = {name: value for name, value in values.items() if name not in NAMES} | chosen_proxies(given)
    for name in _PATHS:
        if name in values:
            values[name] = expanded(values[name], given)
    return values


def variable_of(name: str, environment: Mapping[str, str]) -> str:
    """Which variable the value of this one comes from: that of hive alone, itself, its older name, or the one that
    names a file.
    """
    others = (OWN_NAMES.get(name), name, OLD_NAMES.get(name), SECRET_FILES.get(name))
    return next((other for other in others if other and environment.get(other)), name)


def _read_words(values: dict[str, str], kinds: Mapping[str, object], given: Mapping[str, str]) -> None:
    """Choices and switches in the form that settings know. Raises UnusableVariable for one, or a number, that is no
    text; a path may be bytes of any kind.
    """
    for name, kind in kinds.items():
        is_choice = get_origin(kind) is Literal
        if name not in values or not (is_choice or kind in (int, float, bool)):
            continue
        if not _is_text(values[name]):
            raise UnusableVariable(f"{variable_of(name, given)} holds bytes that are no text in UTF-8.")
        if is_choice or kind is bool:
            word = values[name].lower()
            values[name] = _SWITCHES.get(word, word) if kind is bool else word


def _is_text(value: str) -> bool:
    """Whether a value of the environment, where Python keeps foreign bytes as surrogates, is text."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _names_no_file(name: str, path: str) -> bool:
    """Whether a setting names /dev/null in the place of a file."""
    return name in _OPTIONAL_FILES and is_null_device(path)


def _secret_in(path: str, name: str) -> str:
    """The one line of a secret's file. Raises UnusableVariable, which shows nothing of it."""
    try:
        text = read_given_file(path, MAX_SECRET_FILE_BYTES).decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise UnusableVariable(f"{name} cannot be read from {path}: {reason}.") from None
    if not text or "\n" in text:
        raise UnusableVariable(f"{name} names {path}, which must hold one line.")
    return text


def unusable(error: msgspec.ValidationError, settings: type[msgspec.Struct], environment: Mapping[str, str]) -> str:
    """The sentence that says which variable cannot be read as what it is, and what it may be. It holds no value."""
    name = str(error).rpartition("$.")[2].rstrip("`")
    kind = next((info.type for info in msgspec.structs.fields(settings) if info.encode_name == name), None)
    choices = ", ".join(choice for choice in get_args(kind) if isinstance(choice, str))
    numbers: dict[object, str] = {int: "a whole number", float: "a number", bool: "1 or 0"}
    wanted = numbers.get(kind) or (choices and f"one of {choices}")
    return f"{variable_of(name, environment)} must be {wanted}." if wanted else f"A setting cannot be used: {error}"
