"""The reference and the JSON schemas are those of the code, and every config of the repository fits its schema."""

import json
import pathlib
from typing import Any

import jsonschema
import pytest
import yaml

from ranksr.ablation.trials import Study
from ranksr.config import Config, reference

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
HINT = "run `make docs`"


def validator(path: pathlib.Path) -> Any:
    schema = json.loads(path.read_text(encoding="utf-8"))
    jsonschema.Draft7Validator.check_schema(schema)
    return jsonschema.Draft7Validator(schema)


def named_schema(path: pathlib.Path) -> pathlib.Path:
    """The schema that the first line of a file names to editors."""
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# yaml-language-server: $schema="), path
    return path.parent / first.partition("=")[2]


def test_what_is_committed_is_what_the_code_says(root: pathlib.Path) -> None:
    assert (root / "docs" / "config.md").read_text(encoding="utf-8") == reference.markdown(), HINT
    assert (CONFIGS / "config.schema.json").read_text(encoding="utf-8") == reference.json_schema() + "\n", HINT
    of_ablations = CONFIGS / "ablations" / "ablation.schema.json"
    assert of_ablations.read_text(encoding="utf-8") == reference.json_schema(Study) + "\n", HINT


def test_every_key_has_a_meaning() -> None:
    for title, model in reference._sections("", Config):
        for name, field in model.model_fields.items():
            assert field.description, f"{title}.{name}"


@pytest.mark.parametrize(
    "path", [path for path in sorted(CONFIGS.rglob("*.yaml")) if path.name != "paper_all.yaml"], ids=lambda path: path.stem
)  # fmt: skip
def test_every_config_of_the_repository_fits_the_schema_that_it_names(path: pathlib.Path) -> None:
    found = list(validator(named_schema(path)).iter_errors(yaml.safe_load(path.read_text(encoding="utf-8"))))
    assert not found, found[0]


@pytest.mark.parametrize(
    ("tree", "fits"),
    [
        ({"base": "paper.yaml", "methods": {"esrgan": None}, "ranker": {"features": 8}}, True),
        ({"methods": {"srgan": {"generator": {"features": 24}}}}, True),
        ({"external": {"theirs": None}}, True),
        ({"discriminator": {"features": 8}}, True),
        ({"ranker": {"featrues": 8}}, False),
        ({"methods": {"srgan": {"generator": {"arch": "vdsr"}}}}, False),
        ({"methods": {"SRGAN": {}}}, False),
        ({"seed": "five"}, False),
    ],
)
def test_a_file_may_leave_keys_to_its_base_but_invent_none(tree: dict[str, Any], fits: bool) -> None:
    assert validator(CONFIGS / "config.schema.json").is_valid(tree) == fits
