"""YAML files and overrides: one grammar, `key.path=value`, for the command line and the trials of an ablation.

A YAML file may name one `base:`, whose mappings it changes key by key (lists are replaced whole, `null` removes a
method). Plain scalars are those of YAML 1.2, where 1e-4 is a number and `no`, 010 and 1:30 are not something else.
"""

import pathlib
import re
import types
import typing
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

import pydantic
import yaml

from ranksr.config import checks
from ranksr.config.schema import SHORT, Config, shown, spelled_key, spelled_out
from ranksr.errors import UserError

Checked = TypeVar("Checked", bound=pydantic.BaseModel)
FORMS = ("constrained-float", "dict[")
"""Beginnings of pydantic's names, in the place of an error, for the forms that a value may have."""


class _Repeated(yaml.YAMLError):
    """A key that a mapping holds twice, of which YAML parsers keep the last."""


class _Loader(yaml.SafeLoader):
    """The one reader of YAML here."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  (as PyYAML declares it)

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """The mapping as written, before merge keys (`<<`) are filled in."""
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                continue  # PyYAML refuses it
            if key.value in lines:
                raise _Repeated(f"{key.value} stands twice, in lines {lines[key.value]} and {line}")
            lines[key.value] = line
        return node


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  (as PyYAML declares it)


def _decimal(loader: _Loader, node: yaml.ScalarNode) -> int:
    """PyYAML takes 010 for eight."""
    return int(node.value, 16 if node.value.startswith("0x") else 10)


_Loader.add_constructor("tag:yaml.org,2002:int", _decimal)
for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", list("-+.")),
    ("merge", r"<<", ["<"]),
):
    for _reader in (_Loader, _Dumper):
        _reader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})\Z"), _first)


def load_mapping(path: str | pathlib.Path) -> dict[str, Any]:
    """Read one YAML file that must hold a mapping; errors name the file."""
    try:
        loaded = yaml.load(pathlib.Path(path).read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise UserError(f"cannot read config {path}: {error.strerror}; give the path of a YAML file") from error
    except _Repeated as error:
        raise UserError(f"{path}: {error}, and only one can count: merge or remove one of them") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(loaded, dict):
        raise UserError(f"{path} holds no mapping but {type(loaded).__name__}; `ranksr init DIR` writes one that works")
    return loaded


def read_yaml(path: pathlib.Path, seen: tuple[pathlib.Path, ...] = ()) -> dict[str, Any]:
    """The mapping of a YAML file, laid over that of its `base:`, if it names one."""
    if path.resolve() in seen:
        raise UserError(f"{path}: base leads back to itself through {' -> '.join(map(str, seen))}")
    loaded = spelled_out(load_mapping(path))
    base = loaded.pop("base", None)
    if base is None:
        return loaded
    return _merge(read_yaml(path.parent / str(base), (*seen, path.resolve())), loaded)


def _merge(base: Any, change: Any) -> Any:
    if not (isinstance(base, dict) and isinstance(change, dict)):
        return change
    # Another architecture is another set of keys: nothing of the old one may linger.
    if "arch" in change and change["arch"] != base.get("arch"):
        return change
    return {**base, **{key: _merge(base.get(key), value) for key, value in change.items()}}


def load_config(path: str | pathlib.Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file and its `base:` (relative to it), apply `key.path=value` overrides, check everything.

    Raises UserError naming every wrong key.
    """
    return config_of(override(Config, read_yaml(pathlib.Path(path)), overrides), str(path), overrides)


def with_overrides(config: Config, overrides: Sequence[str]) -> Config:
    """A changed, checked copy. `overrides` are `key.path=value`, the value a text or YAML. Raises UserError."""
    return config_of(override(Config, config.model_dump(mode="json"), overrides), "the overrides")


def config_of(tree: dict[str, Any], source: str, overrides: Sequence[str] = ()) -> Config:
    """The checked config of a tree of plain values. Raises UserError, whose text names `source`."""
    tree = spelled_out(tree)
    for key in ("methods", "blends", "external", "rank_datasets", "rankers"):
        if isinstance(entries := tree.get(key), dict):
            tree = {**tree, key: {name: value for name, value in entries.items() if value is not None}}
    _require_meant(tree, source, overrides)
    config = checked(Config, tree, source, overrides)
    try:
        checks.check(config)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    return config


def _require_meant(tree: dict[str, Any], source: str, overrides: Sequence[str]) -> None:
    """Raise UserError for some keys of `ranker:` where Rankers have other names: one of those is meant."""
    for short, section in SHORT.items():
        named = tree.get(section)
        if not isinstance(named, dict) or len(named) < 2 or not isinstance(named.get(short), dict):
            continue
        entry = typing.get_args(Config.model_fields[section].annotation)[1]
        lacking = [key for key, field in entry.model_fields.items() if field.is_required() and key not in named[short]]
        if lacking:
            others = ", ".join(name for name in named if name != short)
            given = any(shown(each).startswith(f"{short}.") for each in overrides)
            raise UserError(
                f"{'the overrides' if given else source}: {short} is short for {section}.{short}, which lacks "
                f"{', '.join(lacking)}, and the others of {section} are {others}: give {section}.NAME.KEY to change "
                "one of those, or every key for a new one"
            )


def override(model: type[pydantic.BaseModel], tree: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The tree with `key.path=value` changes. Values are literal where `model` holds text, else YAML."""
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or not all(key.split(".")):
            raise UserError(f"override {override!r} is not key.path=value, e.g. ranker.train.steps=1000")
        if model is Config:
            key = spelled_key(key)
        change = _value(_types(model, key, override), override, text.strip())
        for part in reversed(key.split(".")):
            change = {part: change}
        tree = _merge(tree, change)
    return tree


def _types(model: type[pydantic.BaseModel], key: str, override: str) -> list[Any]:
    """The types that a value at this path may have; none where there is no such key."""
    found: list[Any] = [model]
    *above, _ = parts = key.split(".")
    for number, part in enumerate(parts):
        found = [inner for outer in found for inner in _alternatives(_below(outer, part))]
        if number < len(above) and any(typing.get_origin(each) is tuple for each in found):
            name = ".".join(parts[: number + 1])
            raise UserError(f"override {override!r}: {name} is a list, which is replaced whole: give {name}=[...]")
    return found


def _below(outer: Any, part: str) -> Any:
    if isinstance(outer, type) and issubclass(outer, pydantic.BaseModel) and part in outer.model_fields:
        return outer.model_fields[part].annotation
    if typing.get_origin(outer) is dict:
        return typing.get_args(outer)[1] | None  # null removes the entry
    return typing.Never


def _alternatives(annotation: Any) -> list[Any]:
    match typing.get_origin(annotation):
        case typing.Union | types.UnionType:
            return [inner for each in typing.get_args(annotation) for inner in _alternatives(each)]
        case origin if origin is Annotated:
            return _alternatives(typing.get_args(annotation)[0])
    return [] if annotation is typing.Never else [annotation]


def _value(types: list[Any], override: str, text: str) -> Any:
    if types and not any(each is str or typing.get_origin(each) is typing.Literal for each in types):
        return _yaml_value(override, text)
    if not text.isprintable():
        raise UserError(f"override {override!r}: the text has a character that cannot be printed; give it without")
    if type(None) in types and text in ("", "~", "null"):
        return None
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        try:
            return str(yaml.load(text, _Loader))
        except yaml.YAMLError:
            return text  # quotes that are part of the text
    return text


def _yaml_value(override: str, text: str) -> Any:
    """A number, list or mapping. Raises UserError for text that YAML cannot read, or would leave out."""
    remedy = "put a text with special characters in quotes, e.g. test_sets=[{name: a, hr: '/data/a #1'}]"
    try:
        end = 0
        for token in yaml.scan(text):
            if "#" in text[end : token.start_mark.index]:
                raise UserError(f"override {override!r}: YAML takes what follows ` #` for a comment; {remedy}")
            end = token.end_mark.index
        return yaml.load(text, _Loader)
    except _Repeated as error:
        raise UserError(f"override {override!r}: {str(error).partition(',')[0]}; remove one of them") from error
    except (yaml.YAMLError, RecursionError) as error:
        said = getattr(error, "problem", None) or "it is nested too deeply"
        raise UserError(f"override {override!r}: the value is not YAML ({said}); {remedy}") from error


def checked(model: type[Checked], tree: dict[str, Any], source: str, overrides: Sequence[str] = ()) -> Checked:
    """The model of a tree. Raises UserError naming every wrong key and where it comes from: `source`, or one of the
    `overrides` that were laid over it."""
    try:
        return model.model_validate(tree)
    except pydantic.ValidationError as error:
        changed = [override.partition("=")[0] for override in overrides]
        of_its_form = [item for item in error.errors() if not _is_of_other_form(item)]
        raise UserError("; ".join(_describe(item, source, changed) for item in of_its_form)) from None


def _is_of_other_form(item: Any) -> bool:
    """Whether an error only says that a number is no mapping, or a mapping no number, where either may stand."""
    form = str(item["loc"][-1]) if item["loc"] else ""
    return form.startswith(FORMS) and (item["type"] == "dict_type" or isinstance(item["input"], dict))


def _describe(item: Any, source: str, changed: list[str]) -> str:
    key = ".".join(
        str(part)
        for part in item["loc"]
        if (part not in ("srresnet", "rrdbnet", "fsrcnn") or part in item["loc"][:2])
        and not str(part).startswith(FORMS)
    )
    key, changed = shown(key), [shown(each) for each in changed]
    if key and any(f"{key}.".startswith(f"{each}.") or f"{each}.".startswith(f"{key}.") for each in changed):
        source = "the overrides"
    message = f"{item['msg'][:1].lower()}{item['msg'][1:]}"
    match item["type"]:
        case "extra_forbidden":
            return f"{source}: unknown key {key}; remove it or correct its spelling (the keys are in docs/config.md)"
        case "missing":
            return f"{source}: key {key} is missing; add it (`ranksr init DIR` writes a config with every key)"
        case "value_error":
            return f"{source}: {key + ': ' if key else ''}{item['ctx']['error']}"
        case "string_type" if item["input"] is not None:
            return f"{source}: {key}={item['input']!r} is no text; put it in quotes"
        case _:
            return f"{source}: {key}={item['input']!r}: {message}"


def to_text(tree: dict[str, Any]) -> str:
    """A config as a file holds it."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def to_yaml(value: Any) -> str:
    """A value as an override takes it, on one line."""
    return (
        yaml.dump(value, Dumper=_Dumper, default_flow_style=True, width=10**6).removesuffix("\n").removesuffix("\n...")
    )
