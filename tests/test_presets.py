"""`ranksr init` writes what runs as it stands, and overwrites nothing."""

import os
import pathlib
import subprocess
import sys

import pytest

from ranksr import __version__, cli, presets
from ranksr.ablation.trials import load_studies
from ranksr.config import load_config


@pytest.mark.parametrize("name", presets.names())
def test_a_preset_is_written_with_its_comments_its_base_and_the_ablations(
    root: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert cli.main(["init", str(tmp_path / "mine"), "--preset", name]) == 0
    path = tmp_path / "mine" / f"{name}.yaml"
    assert path.read_bytes() == (root / "configs" / f"{name}.yaml").read_bytes()
    assert load_config(path) == load_config(root / "configs" / f"{name}.yaml")
    assert load_studies(tmp_path / "mine" / "ablations" / "demo" / "paper_all.yaml")
    assert f"now: ranksr full_pipeline {path} --run runs/{name}" in capsys.readouterr().out


def test_the_demo_is_what_one_gets_without_asking_and_help_lists_the_others(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["init", str(tmp_path)]) == 0
    assert (tmp_path / "demo.yaml").exists()
    capsys.readouterr()
    assert cli.main(["init", "--help"]) == 0
    assert (
        "[authors_code|demo|external|paper|paper_refresh|rank_esrgan|single_gpu|two_cores]"
        in capsys.readouterr().out.replace("\n", "")
    )


def test_nothing_is_overwritten_and_presets_share_a_folder(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["init", str(tmp_path)]) == 0
    assert cli.main(["init", str(tmp_path), "--preset", "external"]) == 0  # whose base is the same demo
    (tmp_path / "demo.yaml").write_text("seed: 1\n")
    capsys.readouterr()
    assert cli.main(["init", str(tmp_path)]) == 2
    assert f"{tmp_path / 'demo.yaml'} is there already and is kept as it is" in capsys.readouterr().err
    assert (tmp_path / "demo.yaml").read_text() == "seed: 1\n"


@pytest.mark.parametrize(("place", "says"), [("file/x", "cannot write to"), ("s3://b/x", "is no local folder")])
def test_a_folder_that_cannot_be_written_is_named(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], place: str, says: str
) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert cli.main(["init", place if "://" in place else str(tmp_path / place)]) == 2
    said = capsys.readouterr().err
    assert (said.count("\n"), says in said) == (1, True)


def test_the_version_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert (cli.main(["--version"]), capsys.readouterr().out) == (0, f"ranksr {__version__}\n")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_gets_a_script_that_asks_the_command_for_completions(shell: str) -> None:
    def ask(**environment: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", "import sys; from ranksr import cli; sys.exit(cli.main())"],
            env={**os.environ, **environment}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        return done.stdout

    assert "_RANKSR_COMPLETE" in ask(_RANKSR_COMPLETE=f"{shell}_source")
    if shell == "bash":
        offered = ask(_RANKSR_COMPLETE="bash_complete", COMP_WORDS="ranksr ", COMP_CWORD="1")
        assert {f"plain,{name}" for name in cli.commands.commands} <= set(offered.split())
