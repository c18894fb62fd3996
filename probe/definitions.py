"""The text that the service makes of tools and of a response schema, and puts into the prompt.

Tools.   A TypeScript namespace, `type NAME = (_: {...}) => any;` for each function. A property is a line of its own,
         with its title and its description as comments above it and its default and bounds as a comment after it; an
         object none of whose properties has any of these is on one line. Lines of a description are trimmed. Nothing is
         indented. `strict` and `"additionalProperties": false` leave no trace.
Schema.  Minified JSON, escaped to ASCII, in the order it came in, without the keywords that bound values.
Source.  Found by holding hypotheses against the `usage` of recorded requests; docs/tokens.md says how sure each is.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_TOOLS = "# Tools\n\n## functions\n\n"
_FORMATS = "# Response Formats\n\n## {}\n\n"

# Keywords that cost nothing in a response schema: what they bound is enforced while the model writes.
_UNWRITTEN = frozenset(
    "$schema additionalProperties default exclusiveMaximum exclusiveMinimum format maxItems maxLength maximum minItems"
    " minLength minimum multipleOf pattern required".split()
)
# Their values are schemas by name, so that a property may be called "required".
_NAMED = frozenset({"properties", "$defs", "definitions"})
_BOUNDS = ("minimum", "maximum")
# Schemas in schemas that are still written out. A few that refer to each other can be read in endless ways.
_LARGEST = 10_000

_Schema = Mapping[str, Any]


def tools(functions: Sequence[_Schema]) -> str:
    """Of `[{"name", "description", "parameters"}, ...]`."""
    return _TOOLS + namespace(functions)


def namespace(functions: Sequence[_Schema]) -> str:
    """The same without its headings, as the Responses API has it."""
    return "namespace functions {\n\n" + "".join(map(_function, functions)) + "} // namespace functions"


def response_format(name: str, schema: object, description: str = "") -> str:
    written = json.dumps(_written(schema), separators=(",", ":"))
    return _FORMATS.format(name) + _comment(description) + written


def _function(function: _Schema) -> str:
    parameters = function.get("parameters")
    takes = ""
    if isinstance(parameters, Mapping) and _properties(parameters):
        named = "".join(_comment(_text(parameters.get(key))) for key in ("title", "description"))
        takes = "_: " + named + _Types(parameters).of(parameters)
    return f"{_comment(_text(function.get('description')))}type {function.get('name')} = ({takes}) => any;\n\n"


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _comment(text: str) -> str:
    text = text.strip()
    return "".join(f"// {line.strip()}".rstrip() + "\n" for line in text.split("\n")) if text else ""


def _properties(schema: _Schema) -> dict[str, _Schema]:
    properties = schema.get("properties")
    found = properties if isinstance(properties, Mapping) else {}
    return {name: value if isinstance(value, Mapping) else {} for name, value in found.items()}


def _literal(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


class _Types:
    """Schemas as TypeScript; `root` holds what they refer to. What refers to itself is `any` where it comes again."""

    def __init__(self, root: _Schema) -> None:
        self._root = root
        self._left = _LARGEST

    def of(self, schema: object, within: tuple[str, ...] = ()) -> str:
        self._left -= 1
        if not isinstance(schema, Mapping) or self._left < 0 or (reference := schema.get("$ref")) in within:
            return "any"
        if isinstance(reference, str):
            return self.of(self._resolved(schema), (*within, reference))
        if (literals := _literals(schema)) is not None:
            return literals
        for key in ("anyOf", "oneOf"):
            if isinstance(choices := schema.get(key), list) and choices:
                return " | ".join(self.of(choice, within) for choice in choices)
        return self._typed(schema, within)

    def _typed(self, schema: _Schema, within: tuple[str, ...]) -> str:
        kind = schema.get("type")
        if isinstance(kind, list):
            return " | ".join(self._typed({**schema, "type": one}, within) for one in kind if isinstance(one, str))
        if kind == "object" or (kind is None and "properties" in schema):
            return self._object(schema, within)
        if kind == "array":
            return (self.of(schema["items"], within) if schema.get("items") else "any") + "[]"
        simple = {"integer": "number", "number": "number", "string": "string", "boolean": "boolean", "null": "null"}
        return simple.get(kind, "any") if isinstance(kind, str) else "any"

    def _object(self, schema: _Schema, within: tuple[str, ...]) -> str:
        properties = _properties(schema)
        required = schema.get("required")
        required = required if isinstance(required, list) else []
        fields = [
            (f"{name}{'' if name in required else '?'}: {self.of(value, within)}", self._resolved(value))
            for name, value in properties.items()
        ]
        if schema.get("additionalProperties") is True:
            fields.append(("[key: string]: any", {}))
        if not fields:
            return "object"
        if not any(_is_remarked(value) for _, value in fields):
            return "{ " + ", ".join(field for field, _ in fields) + " }"
        return "{\n" + "".join(_line(field, value) for field, value in fields) + "}"

    def _resolved(self, schema: _Schema) -> _Schema:
        """What a `$ref` refers to, with what stands beside it."""
        if not isinstance(reference := schema.get("$ref"), str):
            return schema
        found: object = self._root
        for step in reference.removeprefix("#").strip("/").split("/"):
            found = found.get(step) if isinstance(found, Mapping) and step else found
        beside = {key: value for key, value in schema.items() if key != "$ref"}
        return {**found, **beside} if isinstance(found, Mapping) else beside


def _literals(schema: _Schema) -> str | None:
    if "const" in schema:
        return _literal(schema["const"])
    choices = schema.get("enum")
    return " | ".join(map(_literal, choices)) if isinstance(choices, list) and choices else None


def _is_remarked(schema: _Schema) -> bool:
    return bool(schema.get("title") or schema.get("description") or any(_remarks(schema)))


def _remarks(schema: _Schema) -> Iterator[str]:
    for key in ("default", *_BOUNDS):
        if key in schema:
            yield f"{key}: {_literal(schema[key])}"


def _line(field: str, schema: _Schema) -> str:
    above = _comment(_text(schema.get("title"))) + _comment(_text(schema.get("description")))
    remarks = ", ".join(_remarks(schema))
    return f"{above}{field},{' // ' + remarks if remarks else ''}\n"


def _written(schema: object) -> object:
    if isinstance(schema, list):
        return [_written(one) for one in schema]
    if not isinstance(schema, Mapping):
        return schema
    return {
        key: {name: _written(one) for name, one in value.items()}
        if key in _NAMED and isinstance(value, Mapping)
        else _written(value)
        for key, value in schema.items()
        if key not in _UNWRITTEN
    }
