"""JSON Schemas of the shared types: models by pydantic, TypedDicts by hand (in Python 3.11 pydantic
only knows those of another library)."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Any, Literal, NotRequired, Union, get_args, get_origin, get_type_hints, is_typeddict

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

Schema = dict[str, Any]
REF = "#/components/schemas/{model}"
_PLAIN: dict[object, Schema] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    types.NoneType: {"type": "null"},
    Any: {},
}


def of_models(models: list[type[BaseModel]]) -> dict[str, Schema]:
    """Schemas of request models and everything they hold, by name."""
    _, found = models_json_schema([(model, "validation") for model in models], ref_template=REF)
    definitions: dict[str, Schema] = found.get("$defs", {})
    return definitions


def of_views(views: list[Any]) -> dict[str, Schema]:
    """Schemas of TypedDicts and everything they hold, by name."""
    found: dict[str, Schema] = {}
    for view in views:
        _typed_dict(view, found)
    return found


def reference(name: str) -> Schema:
    """A reference to a named schema."""
    return {"$ref": REF.format(model=name)}


def _typed_dict(view: Any, found: dict[str, Schema]) -> Schema:
    name: str = view.__name__
    if name not in found:
        found[name] = {}  # a type may hold itself
        hints: Mapping[str, Any] = get_type_hints(view, include_extras=True)
        found[name] = {
            "type": "object",
            "title": name,
            "description": (view.__doc__ or "").strip(),
            "properties": {field: _schema(hint, found) for field, hint in hints.items()},
            "required": [
                field
                for field, hint in hints.items()
                if view.__total__ and get_origin(hint) is not NotRequired
            ],
        }
    return reference(name)


def _schema(hint: Any, found: dict[str, Schema]) -> Schema:
    if is_typeddict(hint):
        return _typed_dict(hint, found)
    if hint in _PLAIN:
        return dict(_PLAIN[hint])
    origin, parts = get_origin(hint), get_args(hint)
    if origin is NotRequired:
        return _schema(parts[0], found)
    if origin is Literal:
        return {"enum": list(parts)}
    if origin is list:
        return {"type": "array", "items": _schema(parts[0], found)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _schema(parts[1], found)}
    if origin in (Union, types.UnionType):
        return {"anyOf": [_schema(part, found) for part in parts]}
    raise TypeError(f"no schema for {hint!r}")
