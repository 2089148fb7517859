"""A run is a folder, a stage a sub-folder; this file decides whether a stage is reused, resumed or refused.

`run.json` tells how the run was made. `<stage>/stage.json` holds the fingerprint of the stage: a hash of its
settings and of its inputs' fingerprints. It is written first with `done: false` and rewritten last with `done: true`.
"""

import contextlib
import dataclasses
import datetime
import fcntl
import importlib.metadata
import logging
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from ranksr import __version__, storage
from ranksr.config import Config, UserError

log = logging.getLogger(__name__)

LOCK = "lock"
"""In a local run folder: who works on it, or did last."""
BESIDE_STAGES = (LOCK, "run.json", "report", "tensorboard", "ablation")
"""All that a run folder holds beside one folder a stage."""
STAGES = "stages"
"""In the folders of ablations and of TensorBoard: what trials build."""


@dataclasses.dataclass(frozen=True)
class Stage:
    name: str
    folder: str
    fingerprint: str
    settings: dict[str, Any]
    """Every config value that decides the result, by its dotted key."""
    inputs: dict[str, str]
    """Fingerprints of the stages and digests of the files that the stage reads."""
    state: str
    """`new`, `unfinished` or `done`."""
    results: dict[str, Any]
    """What the stage reported when it was finished; empty before."""

    @property
    def done(self) -> bool:
        return self.state == "done"

    def path(self, *parts: str) -> str:
        return storage.join(self.folder, *parts)


@dataclasses.dataclass(frozen=True)
class Run:
    root: str
    parent: "Run | None" = None
    """Of the trials of an ablation: the run where they look first for a finished stage with the same fingerprint."""

    def path(self, *parts: str) -> str:
        return storage.join(self.root, *parts)

    @property
    def trials(self) -> "Run":
        """Where all trials of this run's ablations build what they change, each stage once: <stage>-<fingerprint>/."""
        return Run(self.path("ablation", STAGES), parent=self)

    def tensorboard(self, stage: Stage) -> str:
        """Where the stage writes its event files."""
        above = self.parent.path("tensorboard", STAGES) if self.parent else self.path("tensorboard")
        return storage.join(above, stage.folder.rsplit("/", 1)[-1])

    def find(self, name: str, settings: dict[str, Any], inputs: dict[str, str]) -> Stage:
        """The stage as it stands, without touching anything.

        Raises UserError when the folder holds the same stage made with other settings or inputs.
        """
        fingerprint = storage.digest_of([name, settings, inputs])
        folder = name
        if self.parent:
            inherited = self.parent.recorded(name)
            if inherited is not None and inherited.done and inherited.fingerprint == fingerprint:
                return inherited
            folder = f"{name}-{fingerprint[:12]}"
        found = self.recorded(folder)
        if found is None:
            return Stage(name, self.path(folder), fingerprint, settings, inputs, "new", {})
        if found.fingerprint != fingerprint:
            raise UserError(_refusal(found, settings, inputs))
        return found

    def recorded(self, folder: str) -> Stage | None:
        """The stage that lies in this folder of the run, whatever its settings."""
        path = self.path(folder, "stage.json")
        if not storage.exists(path):
            return None
        entry = storage.read_json(path)
        return Stage(
            name=entry["stage"],
            folder=self.path(folder),
            fingerprint=entry["fingerprint"],
            settings=entry["settings"],
            inputs=entry["inputs"],
            state="done" if entry["done"] else "unfinished",
            results=entry["results"],
        )

    def begin(self, stage: Stage) -> Stage:
        """Record that work on a stage starts or goes on."""
        log.info(
            "stage %s: %s in %s", stage.name, "continues" if stage.state == "unfinished" else "begins", stage.folder
        )
        if stage.state == "new":
            stage = dataclasses.replace(stage, state="unfinished")
            _write(stage)
        return stage

    def finish(self, stage: Stage, results: dict[str, Any]) -> Stage:
        """Record that a stage is whole."""
        stage = dataclasses.replace(stage, state="done", results=results)
        _write(stage)
        log.info("stage %s: done", stage.name)
        return stage

    def describe(self, config: Config, overrides: list[str]) -> None:
        """Write run.json: all that is needed to tell how these numbers came about."""
        storage.write_json(
            self.path("run.json"),
            {
                "command": [*sys.argv],
                "overrides": overrides,
                "git_commit": _git_commit(),
                "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                "versions": _versions(),
                "config": config.model_dump(mode="json"),
            },
        )


@contextlib.contextmanager
def held(root: str) -> Iterator[None]:
    """Keep other commands out of a run folder meanwhile; the lock dies with this process, however that ends.

    Raises UserError naming the process that has it. Buckets have no locks: see `cluster.held`.
    """
    if storage.is_remote(root):
        yield
        return
    storage.probe(root)
    with open(storage.join(root, LOCK), "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise UserError(in_use(root, file.read())) from error
        except OSError as error:
            log.warning("%s cannot be locked (%s): give no second command for it meanwhile", root, error)
        file.truncate(0)
        file.write(this_process())
        file.flush()
        yield


def this_process() -> str:
    """Who works on a run, for another command's error."""
    return f"process {os.getpid()} on {platform.node()} since {datetime.datetime.now():%Y-%m-%d %H:%M:%S}"


def in_use(root: str, owner: str) -> str:
    """What to say to a second command."""
    return f"{root} is in use by {owner}: wait until it ends, stop it, or choose another --run folder"


def _write(stage: Stage) -> None:
    entry = {
        "stage": stage.name,
        "done": stage.done,
        "fingerprint": stage.fingerprint,
        "results": stage.results,
        "inputs": stage.inputs,
        "settings": stage.settings,
    }
    storage.write_json(stage.path("stage.json"), entry)


def _refusal(found: Stage, settings: dict[str, Any], inputs: dict[str, str]) -> str:
    changes = [
        f"{key}: {found.settings.get(key, 'absent')!r} -> {settings.get(key, 'absent')!r}"
        for key in dict.fromkeys([*found.settings, *settings])
        if found.settings.get(key, _ABSENT) != settings.get(key, _ABSENT)
    ]
    changes += [
        f"input {key} changed"
        for key in dict.fromkeys([*found.inputs, *inputs])
        if found.inputs.get(key) != inputs.get(key)
    ]
    return (
        f"{found.folder} was made with other settings ({'; '.join(changes)}). Undo the change, "
        f"choose another --run folder, or delete {found.folder} to build it again"
    )


_ABSENT = object()


def _git_commit() -> str | None:
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None  # a clone without git, or the copy that a submitted job runs from
    return done.stdout.strip()


def _versions() -> dict[str, str]:
    packages = ("torch", "ray", "numpy", "pyarrow", "opencv-python-headless", "numba")
    return {
        "ranksr": __version__,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
    }
