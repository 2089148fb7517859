"""The wheel alone, in a fresh environment: commands, presets, completion, types and metadata."""

import os
import pathlib
import shutil
import site
import subprocess
import sys
import sysconfig
import zipfile

import pytest

pytestmark = pytest.mark.slow
SOURCES = ("platform", "configs", "pyproject.toml", "README.md", "LICENSE")


def call(*command: str | pathlib.Path, folder: pathlib.Path) -> str:
    """What a command prints, without the repository on its path."""
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=folder, env=kept, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(root: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Built from an sdist, which is built from a copy of the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        copy = shutil.copytree if (root / name).is_dir() else shutil.copy
        copy(root / name, folder / name)
    (folder / ".venv").mkdir()
    (folder / ".venv" / "x").write_bytes(b"")
    call(sys.executable, "-m", "hatchling", "build", "--target", "sdist", folder=folder)
    (sdist,) = (folder / "dist").glob("*.tar.gz")
    shutil.unpack_archive(sdist, folder / "sdist", filter="data")
    (unpacked,) = (folder / "sdist").iterdir()
    assert {path.name for path in unpacked.iterdir()} == {*SOURCES, "PKG-INFO"}
    call(
        sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder / "out", folder=unpacked
    )
    (built,) = (folder / "out").glob("*.whl")
    return built


def test_the_wheel_holds_types_presets_and_metadata(wheel: pathlib.Path, root: pathlib.Path) -> None:
    with zipfile.ZipFile(wheel) as files:
        names = files.namelist()
        (metadata,) = (files.read(name).decode() for name in names if name.endswith("/METADATA"))
    assert "ranksr/py.typed" in names
    files_of_configs = [path for path in (root / "configs").rglob("*.*") if path.suffix in (".yaml", ".json")]
    presets = {f"ranksr/configs/{path.relative_to(root / 'configs')}" for path in files_of_configs}
    assert presets == {name for name in names if name.startswith("ranksr/configs/")}
    assert {name.split("/")[0] for name in names} == {"ranksr", f"ranksr-{wheel.name.split('-')[1]}.dist-info"}
    for line in (
        "Keywords: ",
        "Classifier: Typing :: Typed",
        "Requires-Python: >=3.11",
        "License-Expression: Apache-2.0",
    ):
        assert line in metadata


def test_who_has_the_wheel_alone_gets_a_config_that_loads(wheel: pathlib.Path, tmp_path: pathlib.Path) -> None:
    call(sys.executable, "-m", "venv", "--without-pip", "env", folder=tmp_path)
    python, ranksr = tmp_path / "env" / "bin" / "python", tmp_path / "env" / "bin" / "ranksr"
    call(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "--quiet", wheel, folder=tmp_path)  # fmt: skip
    # The dependencies of this environment; a .pth file inside it, as that of an editable install, is not followed.
    (own,) = (tmp_path / "env").glob("lib/python*/site-packages")
    (own / "dependencies.pth").write_text("\n".join({sysconfig.get_path("purelib"), *site.getsitepackages()}))
    version = wheel.name.split("-")[1]
    assert call(ranksr, "--version", folder=tmp_path) == f"ranksr {version}\n"
    assert "now: ranksr full_pipeline mine/external.yaml" in call(
        ranksr, "init", "mine", "--preset", "external", folder=tmp_path
    )
    loaded = "import ranksr.config as c; print(c.__file__, c.load_config('mine/external.yaml').name)"
    where, name = call(python, "-c", loaded, folder=tmp_path).split()
    assert (pathlib.Path(where).is_relative_to(own), name) == (True, "external")
    script = call("env", "_RANKSR_COMPLETE=bash_source", ranksr, folder=tmp_path)
    (tmp_path / "complete.bash").write_text(script)
    asked = (
        f"PATH={own.parents[2]}/bin:$PATH; source ./complete.bash; COMP_WORDS=(ranksr full_); COMP_CWORD=1; "
        "_ranksr_completion ranksr; echo ${COMPREPLY[@]}"
    )
    assert call("bash", "-c", asked, folder=tmp_path).split() == ["full_pipeline"]
