"""JSON Schema of the wire types: the components of the OpenAPI document.

msgspec knows what it reads, and says so as a schema; what it writes is narrower. A field with a default may be left
out of a request, but an answer has every field, so a client need not ask whether `local_path` is there. The easy way,
one schema for both, would let an answer of `{}` pass. So what only answers have is narrowed here: each field is
required that is always written.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Any, Final

import msgspec

from hive.api.openapi.field_notes import notes_of
from hive.wire import api, events, llm, maintenance

#: Where the wire types are. A type of another module gets the schema of what msgspec reads.
MODULES: Final[Sequence[ModuleType]] = (api, events, llm, maintenance)
#: Unions of wire types that the document calls by a name: how it is called, and what it is.
UNIONS: Final[dict[str, Any]] = {
    "Event": events.Event,
    "LoadingEvent": llm.LoadingEvent,
    "InferenceEvent": llm.InferenceEvent,
    "VerificationLine": maintenance.VerificationLine,
    "CollectionLine": maintenance.CollectionLine,
}
#: How a component is referred to.
PREFIX: Final = "#/components/schemas/"

_GENERIC = re.compile(r"(\w+)\[(\w+)\]")


class Schemas:
    """The schemas of these types, and of all that they hold."""

    def __init__(self, types: Iterable[Any]) -> None:
        kinds = list(dict.fromkeys([*types, *UNIONS.values()]))
        found, components = msgspec.json.schema_components(kinds, ref_template=PREFIX + "{name}")
        names = {name: _called(name, schema) for name, schema in components.items()}
        self._refs: dict[Any, dict[str, Any]] = {
            kind: _renamed(schema, names) for kind, schema in zip(kinds, found, strict=True)
        }
        structs = wire_types()
        #: By name, in alphabetical order.
        self.components: dict[str, Any] = {
            names[name]: _described(_renamed(schema, names), structs.get(schema.get("title", "").partition("[")[0]))
            for name, schema in components.items()
        }
        for name, union in UNIONS.items():
            self.components[name] = self._refs[union]
            self._refs[union] = {"$ref": PREFIX + name}
        self.components = dict(sorted(self.components.items()))

    def of(self, kind: Any) -> dict[str, Any]:
        """The schema of a type that was given: mostly a reference to its component."""
        return self._refs[kind]


def wire_types() -> dict[str, type[msgspec.Struct]]:
    """Every struct of the wire that the HTTP API may bring, by its name."""
    return {
        name: kind
        for module in MODULES
        for name, kind in vars(module).items()
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind.__module__ == module.__name__
    }


def _called(name: str, schema: dict[str, Any]) -> str:
    """`Page[Download]` becomes `DownloadPage`, which a generator of clients can use as a name."""
    generic = _GENERIC.fullmatch(schema.get("title", ""))
    return f"{generic[2]}{generic[1]}" if generic else name


def _renamed(schema: Any, names: dict[str, str]) -> Any:
    """The schema with its references by the names of the document; the mapping of a discriminator has them too."""
    if isinstance(schema, dict):
        return {key: _renamed(value, names) for key, value in schema.items()}
    if isinstance(schema, list | tuple):  # a default of a tuple
        return [_renamed(value, names) for value in schema]
    if isinstance(schema, str) and schema.startswith(PREFIX):
        return PREFIX + names[schema.removeprefix(PREFIX)]
    return schema


def _described(schema: dict[str, Any], kind: type[msgspec.Struct] | None) -> dict[str, Any]:
    """The schema with its docstring as text about JSON, and with what an answer always has."""
    if "description" in schema:
        paragraphs = str(schema["description"]).split("\n\n")
        text = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
        schema["description"] = text.replace("None", "null").replace("True", "true")
    for field, note in (notes_of(kind) if kind is not None else {}).items():
        schema["properties"][field] = {**schema["properties"][field], "description": note}
    if kind is not None and not kind.__struct_config__.forbid_unknown_fields:
        schema["required"] = _always_written(kind)
        for field in schema["properties"].values():
            field.pop("default", None)  # of the reader: whoever writes has no default
    return schema


def _always_written(kind: type[msgspec.Struct]) -> list[str]:
    config = kind.__struct_config__
    tag = [config.tag_field] if config.tag_field else []
    return tag + [
        field.encode_name
        for field in msgspec.structs.fields(kind)
        if field.required or not (config.omit_defaults or field.default is msgspec.UNSET)
    ]
