"""The house: imports point down, Ray stays where it belongs, files stay small, `platform` stays Python's."""

import ast
import pathlib
import platform
import re

import pytest
import ray

from ranksr import cluster

PACKAGE = pathlib.Path(__file__).parents[1] / "platform" / "ranksr"

LAYERS = [
    ("errors",),
    ("config", "storage", "terminal", "templates", "serving", "downloads", "decoding"),
    ("images", "listing"),
    ("models", "losses", "metrics", "weights", "checkpoints", "runs", "cluster", "gauges"),
    ("data",),
    ("train",),
    ("stages", "report", "preflight", "identity", "context", "scoring", "vitals"),
    ("pipeline",),
    ("ablation", "session"),
    ("inspect", "study", "presets"),
    ("use",),
    ("guard",),
    ("cli",),
]
"""From the left, as in CONTRIBUTING.md: a module imports from the left or from its own group."""

RAY = {"cluster.py", "gauges.py", "data", "train/launch.py", "train/worker_pool.py", "stages", "ablation", "session.py"}
FILES = sorted(PACKAGE.rglob("*.py"))


def level(name: str) -> int:
    return next(number for number, group in enumerate(LAYERS) if name in group)


def imports(path: pathlib.Path) -> set[str]:
    """Dotted names of everything a file imports, but for what is there for type checkers only."""
    tree = ast.parse(path.read_text())
    for_types = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for child in ast.walk(node)
    }
    names = set()
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "ranksr":
            names |= {f"ranksr.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides its layer"
            names.add(node.module or "")
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: pathlib.Path) -> None:
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if own == "__init__":
        return
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "ranksr" and parts[1:] not in ([], ["__version__"], ["SCALE"]):
            assert level(parts[1]) <= level(own), f"{own} imports {name}, which lies above it"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_ray_is_imported_only_where_it_belongs(path: pathlib.Path) -> None:
    place = str(path.relative_to(PACKAGE))
    if place in RAY or place.split("/")[0] in RAY:
        return
    assert not {name for name in imports(path) if name.split(".")[0] == "ray"}


PRIVATE = re.compile(r"ray\.(_|.*\._|core\.generated|autoscaler)")
"""Names of Ray that it promises nothing about."""


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_undocumented_parts_of_ray_are_used_in_cluster_alone(path: pathlib.Path) -> None:
    named = imports(path) | {
        ast.unparse(node) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)
    }
    private = {name for name in named if PRIVATE.match(name)}
    assert bool(private) == (path.name == "cluster.py"), private


def test_the_undocumented_parts_of_ray_were_tried_with_the_installed_version() -> None:
    assert ".".join(ray.__version__.split(".")[:2]) == cluster.TRIED, cluster.__doc__


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_file_is_longer_than_400_lines(path: pathlib.Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


def test_every_file_says_first_what_it_is_for() -> None:
    for path in FILES:
        assert ast.get_docstring(ast.parse(path.read_text())), path


def test_platform_is_still_pythons_own_module() -> None:
    assert not (PACKAGE.parent / "__init__.py").exists()
    assert sorted(path.name for path in PACKAGE.parent.iterdir() if path.name != "__pycache__") == ["ranksr"]
    assert platform.__file__.endswith("platform.py")
