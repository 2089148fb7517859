"""The config described for people and editors: docs/config.md and the JSON schemas, both made from the sections."""

import types
import typing
from typing import Any

import pydantic
import pydantic_core

from ranksr import storage
from ranksr.config.schema import SHORT, Config
from ranksr.config.section import Section

OPTIONAL_ENTRIES = ("methods", "blends", "external", "rank_datasets", "rankers")
"""Mappings whose entries a file removes from its `base:` by `null`."""


def json_schema(model: type[pydantic.BaseModel] = Config) -> str:
    """The JSON schema of a config *file*: every key may be absent, `base` may be there, entries may be null.

    `model`: the model of another kind of file, such as `ablation.trials.Study`.
    """
    schema = {"$schema": "http://json-schema.org/draft-07/schema#", **_partial(model)}
    schema["$defs"] = schema.pop("$defs")  # last: what people look for comes first
    schema["properties"]["base"] = {"type": "string", "description": "A file of this kind that this one changes."}
    for short, section in SHORT.items() if model is Config else ():
        entry = next(iter(schema["properties"][section]["patternProperties"].values()))
        schema["properties"][short] = {"anyOf": [entry, {"type": "null"}]}
    for key in OPTIONAL_ENTRIES if model is Config else ():
        names = schema["properties"][key]["patternProperties"]
        schema["properties"][key]["patternProperties"] = {
            pattern: {"anyOf": [entry, {"type": "null"}]} for pattern, entry in names.items()
        }
        schema["properties"][key]["additionalProperties"] = False
    return storage.to_json(schema, indent=2)


def _partial(model: type[pydantic.BaseModel]) -> dict[str, Any]:
    """The JSON schema of a model in which no key is required, as a file may leave keys to its `base:`."""
    return _without_requirements(model.model_json_schema())


def _without_requirements(node: Any) -> Any:
    if isinstance(node, list):
        return [_without_requirements(each) for each in node]
    if not isinstance(node, dict):
        return node
    kept = {key: value for key, value in node.items() if key != "required"}
    if "oneOf" in kept:  # without `arch`, which may stand in the base, several architectures fit
        kept["anyOf"] = kept.pop("oneOf")
        del kept["discriminator"]
    return {key: _without_requirements(value) for key, value in kept.items()}


def markdown() -> str:
    """docs/config.md: every key with its type, its default and what the code says of it."""
    lines = [
        "# Config reference",
        "",
        "Made by `make docs` from the docstrings in `platform/ranksr/config/`. A key without a default",
        "must be given, in the file or in its `base:`. On the command line: `section.key=value`.",
    ]
    for title, model in _sections("", Config):
        about = (model.__doc__ or "").strip().splitlines()
        lines += ["", f"## {title or 'Top level'}", "", *([about[0], ""] if about else [])]
        lines += ["| key | type | default | meaning |", "|---|---|---|---|"]
        for name, field in model.model_fields.items():
            meaning = " ".join((field.description or "").split())
            cells = [f"`{name}`", _type(field.annotation), _default(field), meaning]
            lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def _sections(prefix: str, model: type[Section]) -> list[tuple[str, type[Section]]]:
    """Dotted path of every section and its model, depth first; `methods.NAME` stands for every method."""
    found = [(prefix, model)]
    for name, field in model.model_fields.items():
        path = f"{prefix}.{name}".lstrip(".")
        for inner in _models(field.annotation):
            below = f"{path}.NAME" if typing.get_origin(field.annotation) is dict else path
            if "arch" in inner.model_fields:
                below += f" (arch: {typing.get_args(inner.model_fields['arch'].annotation)[0]})"
            found += _sections(below, inner)
    return found


def _models(annotation: Any) -> list[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [model for each in typing.get_args(annotation) for model in _models(each)]


def _type(annotation: Any) -> str:
    """A type for a reader of YAML, e.g. `list of text`, `number or null`."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _type(inner[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(_type(each) for each in inner))
    if origin is typing.Literal:
        return " or ".join(f"`{each}`" for each in inner)
    if origin is tuple:
        return f"list of {_type(inner[0])}"
    if origin is dict:
        return f"NAME: {_type(inner[1])}"
    names = {str: "text", int: "whole number", float: "number", bool: "true or false", type(None): "null"}
    return names.get(annotation, "section")


def _default(field: pydantic.fields.FieldInfo) -> str:
    if field.default is pydantic_core.PydanticUndefined:
        return "" if field.default_factory is None else "see below"
    if isinstance(field.default, Section):
        return "see below"
    return f"`{storage.to_json(field.default)}`"
