"""YAML files and overrides: one grammar, `key.path=value`, for the command line and the trials of an ablation.

A YAML file may name one `base:`, whose mappings it changes key by key (lists are replaced whole, `null` removes a
method).
"""

import pathlib
from typing import Any, TypeVar

import pydantic
import yaml

Checked = TypeVar("Checked", bound=pydantic.BaseModel)


class UserError(ValueError):
    """A mistake that the user can mend: the message names the thing, the value and the remedy."""


def load_mapping(path: str | pathlib.Path) -> dict[str, Any]:
    """Read one YAML file that must hold a mapping; errors name the file."""
    try:
        loaded = yaml.safe_load(pathlib.Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read config {path}: {error.strerror}; give the path of a YAML file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(loaded, dict):
        raise UserError(f"{path} holds no mapping but {type(loaded).__name__}; see configs/demo.yaml")
    return loaded


def read_yaml(path: pathlib.Path, seen: tuple[pathlib.Path, ...] = ()) -> dict[str, Any]:
    """The mapping of a YAML file, laid over that of its `base:`, if it names one."""
    if path.resolve() in seen:
        raise UserError(f"{path}: base leads back to itself through {' -> '.join(map(str, seen))}")
    loaded = load_mapping(path)
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


def override(tree: dict[str, Any], overrides: list[str] | tuple[str, ...]) -> dict[str, Any]:
    """The tree with `key.path=value` changes, the value in YAML."""
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or not key:
            raise UserError(f"override {override!r} is not key.path=value, e.g. ranker.train.steps=1000")
        try:
            change = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UserError(f"override {override!r}: the value is not YAML") from error
        for part in reversed(key.split(".")):
            change = {part: change}
        tree = _merge(tree, change)
    return tree


def checked(model: type[Checked], tree: dict[str, Any], source: str) -> Checked:
    """The model of a tree. Raises UserError naming every wrong key; `source` says in it where the tree comes from."""
    try:
        return model.model_validate(tree)
    except pydantic.ValidationError as error:
        raise UserError("; ".join(_describe(item, source) for item in error.errors())) from None


def _describe(item: Any, source: str) -> str:
    key = ".".join(
        str(part) for part in item["loc"] if part not in ("srresnet", "rrdbnet", "fsrcnn") or part in item["loc"][:2]
    )
    match item["type"]:
        case "extra_forbidden":
            return f"{source}: unknown key {key}; remove it or correct its spelling (the keys are in ranksr/config.py)"
        case "missing":
            return f"{source}: key {key} is missing; add it (configs/demo.yaml has every key)"
        case "value_error":
            return f"{source}: {key + ': ' if key else ''}{item['ctx']['error']}"
        case _:
            return f"{source}: {key}={item['input']!r}: {item['msg'].lower()}"


def flatten(prefix: str, node: Any, flat: dict[str, Any]) -> None:
    """Add the leaves under `node` to `flat`, by their dotted keys."""
    if isinstance(node, dict):
        for key, value in node.items():
            flatten(f"{prefix}.{key}", value, flat)
    else:
        flat[prefix] = node


def to_yaml(value: Any) -> str:
    """A value as an override takes it, on one line."""
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("\n").removesuffix("\n...")
