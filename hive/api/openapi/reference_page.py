"""The page at `/docs`: the OpenAPI document as HTML, made on the server.

The usual pages for OpenAPI are megabytes of JavaScript, most often from somebody else's host: on a machine without a
way out they show nothing, and on every other they run a stranger's code beside hive's API. This one is text. Its
policy lets the browser load nothing and run nothing; the one style sheet stands in the page and is named by its hash.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from html import escape
from importlib.resources import files
from typing import Any, Final

Object = Mapping[str, Any]

_POLICY: Final = (
    "default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_PREFIX: Final = "#/components/schemas/"
#: The extension that says what one item of a stream is.
_ITEM: Final = "x-item-schema"


def render(document: Object) -> tuple[bytes, str]:
    """The page, and the Content-Security-Policy that it needs."""
    style = files("hive.api.openapi").joinpath("reference_page.css").read_text()
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    info = document["info"]
    page = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(info["title"])} {escape(info["version"])}: HTTP API</title>
<style>{style}</style>
</head>
<body>
<a class="skip" href="#operations">To the operations</a>
<header>
<h1>{escape(info["title"])} <small>{escape(info["version"])}</small></h1>
<p>{_text(info["description"])}</p>
<p>The same for programs: <a href="openapi.json">openapi.json</a> (OpenAPI {escape(document["openapi"])}).</p>
</header>
<nav aria-label="Operations">{_contents(document)}</nav>
<main id="operations">
{"".join(_operations(document))}
<h2 id="schemas">Schemas</h2>
{"".join(_component(name, schema) for name, schema in document["components"]["schemas"].items())}
</main>
</body>
</html>
"""
    return page.encode(), _POLICY.format(digest=digest)


def by_tag(document: Object) -> dict[str, list[tuple[str, str, Object]]]:
    """The operations as method, path and what is said of them, under their tags."""
    found: dict[str, list[tuple[str, str, Object]]] = {tag["name"]: [] for tag in document["tags"]}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            found[operation["tags"][0]].append((method.upper(), path, operation))
    return found


def _contents(document: Object) -> str:
    lines = []
    for tag, operations in by_tag(document).items():
        links = "".join(
            f'<li><a href="#{escape(operation["operationId"])}">{_method(method)} {_path(path)}</a></li>'
            for method, path, operation in operations
        )
        lines.append(f"<h2>{escape(tag)}</h2><ul>{links}</ul>")
    return "".join(lines) + '<h2><a href="#schemas">Schemas</a></h2>'


def _operations(document: Object) -> Iterator[str]:
    for tag, operations in by_tag(document).items():
        yield f"<h2>{escape(tag)}</h2>"
        for method, path, operation in operations:
            yield _operation(method, path, operation, document["components"]["responses"])


def _operation(method: str, path: str, operation: Object, shared: Object) -> str:
    """One operation; `shared` are the answers that several have."""
    answers = {
        status: shared[answer["$ref"].rpartition("/")[2]] if "$ref" in answer else answer
        for status, answer in operation["responses"].items()
    }
    parts = [
        f'<section id="{escape(operation["operationId"])}">',
        f"<h3>{_method(method)} {_path(path)}</h3>",
        f"<p><strong>{_text(operation['summary'])}.</strong> {_text(operation['description'])}</p>",
        f'<p class="scope">{_scope(operation)}</p>',
    ]
    if parameters := operation.get("parameters"):
        parts += ["<h4>Parameters</h4>", _fields(map(_parameter, parameters))]
    if body := operation.get("requestBody"):
        note = "" if body["required"] else " <small>may be left out</small>"
        parts += [f"<h4>Body{note}</h4>", _contents_of(body["content"])]
    good = {status: answer for status, answer in answers.items() if int(status) < 400}
    errors = {status: answer for status, answer in answers.items() if int(status) >= 400}
    parts.append("<h4>Answers</h4>")
    parts.append(
        _fields(
            (f"<b>{escape(status)}</b>", _text(answer["description"]) + _contents_of(answer.get("content", {})))
            for status, answer in good.items()
        )
    )
    parts.append(f"<details><summary>Errors: {', '.join(map(escape, errors))}</summary>")
    parts.append(
        _fields((f"<b>{escape(status)}</b>", _text(answer["description"])) for status, answer in errors.items())
    )
    return "".join([*parts, "</details></section>\n"])


def _scope(operation: Object) -> str:
    needed = sorted(
        {scope for scheme in operation.get("security", []) for scopes in scheme.values() for scope in scopes}
    )
    return f"Scope: {', '.join(f'<code>{escape(scope)}</code>' for scope in needed)}" if needed else "Open to all"


def _parameter(parameter: Object) -> tuple[str, str]:
    kind = f"{_kind(parameter['schema'])}, in the {escape(parameter['in'])}{_required(parameter.get('required'))}"
    term = f'<code>{escape(parameter["name"])}</code> <span class="type">{kind}</span>'
    return term, _text(parameter.get("description", ""))


def _contents_of(content: Object) -> str:
    lines = []
    for media_type, body in content.items():
        schema = body.get(_ITEM, body["schema"])
        each = ", each: " if _ITEM in body else ": " if schema.get("type") != "string" else ""
        kind = f'{each}<span class="type">{_kind(schema)}</span>' if each else ""
        lines.append(f"<p><code>{escape(media_type)}</code>{kind}</p>")
    return "".join(lines)


def _component(name: str, schema: Object) -> str:
    about = f"<p>{_text(schema['description'])}</p>" if "description" in schema else ""
    if "properties" not in schema:
        return f'<section id="{escape(name)}"><h3>{escape(name)}</h3>{about}<p>{_kind(schema)}</p></section>\n'
    required = set(schema.get("required", ()))
    fields = (
        (
            f'<code>{escape(field)}</code> <span class="type">{_kind(found)}{_required(field in required)}</span>',
            _text(found.get("description", "")),
        )
        for field, found in schema["properties"].items()
    )
    return f'<section id="{escape(name)}"><h3>{escape(name)}</h3>{about}{_fields(fields)}</section>\n'


def _fields(rows: Iterable[tuple[str, str]]) -> str:
    """A list of terms and what they are; both are HTML."""
    lines = "".join(f"<dt>{term}</dt><dd>{about}</dd>" if about else f"<dt>{term}</dt>" for term, about in rows)
    return f"<dl>{lines}</dl>"


def _required(required: object) -> str:
    return ", <em>required</em>" if required else ""


def _kind(schema: Object) -> str:
    """A schema in a few words, as HTML."""
    if "$ref" in schema:
        name = str(schema["$ref"]).removeprefix(_PREFIX)
        return f'<a href="#{escape(name)}">{escape(name)}</a>'
    for word, between in (("anyOf", " or "), ("oneOf", " or "), ("allOf", " with ")):
        if word in schema:
            return between.join(dict.fromkeys(_kind(part) for part in schema[word]))
    if "enum" in schema or "const" in schema:
        values = schema.get("enum") or [schema["const"]]
        return " or ".join(f"<code>{escape(str(value))}</code>" for value in values)
    if schema.get("contentSchema"):
        return f"{_kind(schema['contentSchema'])} as JSON"
    kind = schema.get("type", "anything")
    if kind == "array":
        items = re.sub(r"^(string|integer|number|uuid)\b", r"\1s", _kind(schema.get("items", {})))
        return f"list of {items}{_bounds(schema, 'Items')}"
    if kind == "object" and schema.get("properties"):
        inner = ", ".join(
            f"<code>{escape(name)}</code>: {_kind(found)}" for name, found in schema["properties"].items()
        )
        return f"object of {inner}"
    words = [escape(str(schema.get("format", kind)))]
    if "pattern" in schema:
        words.append(f"<code>{escape(schema['pattern'])}</code>")
    return " ".join(words) + _bounds(schema, "imum") + _bounds(schema, "Length") + _default(schema)


_UNITS: Final = {"Items": "", "imum": "", "Length": " characters"}


def _bounds(schema: Object, what: str) -> str:
    least, most = schema.get(f"min{what}"), schema.get(f"max{what}")
    if least is None and most is None:
        return ""
    if most is None:
        return f", at least {least:,}{_UNITS[what]}"
    return f", {f'{least:,} to ' if least is not None else 'at most '}{most:,}{_UNITS[what]}"


def _default(schema: Object) -> str:
    found = schema.get("default")
    return (
        f", else {escape(str(found).lower() if isinstance(found, bool) else str(found))}" if found is not None else ""
    )


def _method(method: str) -> str:
    return f'<span class="method {escape(method.lower())}">{escape(method)}</span>'


def _path(path: str) -> str:
    """A path that may break behind a slash."""
    return f'<code class="path">{escape(path).replace("/", "/<wbr>")}</code>'


def _text(text: str) -> str:
    """Paragraphs and `code`, as in a docstring."""
    marked = re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))
    return marked.replace("\n\n", "<br>")
