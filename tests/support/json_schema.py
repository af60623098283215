"""A checker for the part of JSON Schema that /openapi.json uses; an unknown keyword is an error."""

from __future__ import annotations

from typing import Any

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,), "array": (list,), "string": (str,), "integer": (int,),
    "number": (int, float), "boolean": (bool,), "null": (type(None),),
}  # fmt: skip
_KNOWN = frozenset(
    {"type", "properties", "required", "items", "enum", "additionalProperties", "$ref"}
    | {"description", "examples", "default"}
)


def problems(value: Any, schema: dict[str, Any], root: dict[str, Any], at: str = "$") -> list[str]:
    """Where `value` differs from `schema`; references are looked up in `root`."""
    unknown = set(schema) - _KNOWN
    assert not unknown, f"the checker does not know {unknown}"
    if "$ref" in schema:
        return problems(value, resolve(schema["$ref"], root), root, at)
    if "enum" in schema and value not in schema["enum"]:
        return [f"{at}: {value!r} is not one of {schema['enum']}"]
    if "type" in schema and not _fits(value, schema["type"]):
        return [f"{at}: {value!r} is no {schema['type']}"]
    if isinstance(value, dict):
        return _object(value, schema, root, at)
    if isinstance(value, list):
        items = schema.get("items", {})
        return [
            p for i, item in enumerate(value) for p in problems(item, items, root, f"{at}[{i}]")
        ]
    return []


def resolve(reference: str, root: dict[str, Any]) -> dict[str, Any]:
    """What `#/components/schemas/X` points to."""
    found: Any = root
    for name in reference.removeprefix("#/").split("/"):
        found = found[name]
    assert isinstance(found, dict)
    return found


def _fits(value: Any, types: str | list[str]) -> bool:
    names = [types] if isinstance(types, str) else types
    if isinstance(value, bool):
        return "boolean" in names
    return any(isinstance(value, _TYPES[name]) for name in names)


def _object(
    value: dict[str, Any], schema: dict[str, Any], root: dict[str, Any], at: str
) -> list[str]:
    found = [
        f"{at}: {name!r} is missing" for name in schema.get("required", ()) if name not in value
    ]
    properties = schema.get("properties", {})
    for name, member in value.items():
        if name in properties:
            found += problems(member, properties[name], root, f"{at}.{name}")
        elif schema.get("additionalProperties") is False:
            found.append(f"{at}: {name!r} is unknown")
    return found
