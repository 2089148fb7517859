"""A run is a folder, a stage a sub-folder; this file decides whether a stage is reused, resumed or refused.

`run.json` tells how the run was made. `<stage>/stage.json` holds the fingerprint of the stage: a hash of its
settings and of its inputs' fingerprints. It is written first with `done: false` and rewritten last with `done: true`.
`<stage>/photographs.json` holds the digest of every photograph that the stage is made of, so that a change has names.
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
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ranksr import __version__, storage
from ranksr.config import Config
from ranksr.config.files import checked
from ranksr.errors import UserError

log = logging.getLogger(__name__)

LOCK = "lock"
"""File in a local run folder: the process that works on it, or did last."""
RUN_FILE, STAGE_FILE = "run.json", "stage.json"
METRICS, CHECKPOINTS, WEIGHTS = "metrics.jsonl", "checkpoints", "weights.pt"
"""Files and a folder of a training."""
RANKER_SCORES = "ranker_scores.parquet"
"""File of the stage `ranker`: the Ranker's score of every validation location."""
SCORES, PICTURES = "scores.parquet", "images"
"""File and folder of an evaluation."""
RESULTS, SCORES_OF_TRIALS, STOPPED = "results.json", "results.parquet", "stopped.json"
"""Files of an ablation."""
BESIDE_STAGES = (LOCK, RUN_FILE, "report", "tensorboard", "ablation", "studies", "calibration")
"""Names in a run folder beside one folder a stage; `calibration` in runs of an older ranksr."""
STAGES = "stages"
"""Folder, in those of ablations and of TensorBoard, of the stages that trials build."""

IDENTITY = 2
"""Version of the fingerprints, in every stage.json. Raised whenever the same work would get another fingerprint."""

IDENTITY_CHANGES = {
    2: "photographs count by their content, and what changes nothing but curves no longer counts",
}
"""Change that came with each number."""

PHOTOGRAPHS = "photographs.json"
"""File of a stage: input to image_id to digest of the content."""

locks = contextlib.ExitStack()
"""Locks of the command that runs. Global, because everything that Tune is given must be picklable."""

Manifests = Mapping[str, Callable[[], dict[str, str]]]
"""Input of a stage that is photographs -> gives their digests by image_id."""

NAMED = 3
"""Number of changed photographs that a refusal names."""


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
    """Values that the stage reported when it finished; empty before."""
    remarks: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Settings by dotted key that change only its curves, and are no part of the fingerprint."""
    identity: int = IDENTITY
    """Version of the fingerprint (IDENTITY)."""
    changed: str = ""
    """Difference to the recorded stage that is no reason to refuse; empty without one."""

    @property
    def needs(self) -> set[str]:
        """Fingerprints of all that must be there before the stage is built."""
        return {*self.inputs.values(), *(value for value in self.remarks.values() if isinstance(value, str))}

    @property
    def done(self) -> bool:
        return self.state == "done"

    def path(self, *parts: str) -> str:
        return storage.join(self.folder, *parts)


@dataclasses.dataclass(frozen=True)
class Run:
    root: str
    parent: "Run | None" = None
    """For trials of an ablation: the run in which they first look for a finished stage with the same fingerprint."""

    def path(self, *parts: str) -> str:
        return storage.join(self.root, *parts)

    @property
    def trials(self) -> "Run":
        """Folder where trials of this run's ablations build their own stages, each once: <stage>-<fingerprint>/."""
        return Run(self.path("ablation", STAGES), parent=self)

    def tensorboard(self, stage: Stage) -> str:
        """Folder of the stage's event files."""
        above = self.parent.path("tensorboard", STAGES) if self.parent else self.path("tensorboard")
        return storage.join(above, stage.folder.rsplit("/", 1)[-1])

    def find(
        self,
        name: str,
        settings: dict[str, Any],
        inputs: dict[str, str],
        remarks: dict[str, Any] | None = None,
        photographs: Manifests | None = None,
        suffices: Callable[[Stage, Stage], bool] = lambda found, wanted: False,
    ) -> Stage:
        """The stage in its present state; nothing is written.

        `suffices(found, wanted)` tells of a finished stage with another fingerprint whether it holds all that is asked
        for. An unfinished one of which nothing but photographs changed goes on with those of now.
        Raises UserError when the folder holds the same stage made with other settings or inputs.
        """
        fingerprint = storage.digest_of([name, settings, inputs])
        folder = f"{name}-{fingerprint[:12]}" if self.parent else name
        wanted = Stage(name, self.path(folder), fingerprint, settings, inputs, "new", {}, remarks or {})

        def fits(found: Stage) -> bool:
            same = found.fingerprint == fingerprint or (found.done and suffices(found, wanted))
            return same and found.identity == IDENTITY

        if self.parent:
            inherited = self.parent.recorded(name)
            if inherited is not None and inherited.done and fits(inherited):
                return _with_remarks(inherited, wanted.remarks)
        found = self.recorded(folder)
        if found is None:
            return wanted
        if fits(found):
            return _with_remarks(found, wanted.remarks)
        if found.identity != IDENTITY:
            raise UserError(_other_identity(found))
        changes = _changed_photographs(found, inputs, photographs or {})
        only_photographs = found.settings == settings and _differing(found.inputs, inputs) == list(changes)
        if only_photographs and not found.done:
            return dataclasses.replace(wanted, state="unfinished", changed=f"photographs changed ({_count(changes)})")
        raise UserError(_refusal(found, wanted, changes))

    def recorded(self, folder: str) -> Stage | None:
        """The stage in this folder of the run, whatever its settings; None where there is none."""
        path = self.path(folder, STAGE_FILE)
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
            remarks=entry.get("remarks", {}),
            identity=entry.get("identity", 1),
        )

    def begin(self, stage: Stage, photographs: Manifests | None = None) -> Stage:
        """Record that work on a stage starts or goes on, and the photographs that it is made of."""
        what = "continues" if stage.state == "unfinished" else "begins"
        log.info("stage %s: %s in %s%s", stage.name, what, stage.folder, f": {stage.changed}" if stage.changed else "")
        if photographs:
            manifests = {key: manifest() for key, manifest in photographs.items()}
            storage.write_json(stage.path(PHOTOGRAPHS), manifests)
        stage = dataclasses.replace(stage, state="unfinished", changed="")
        _write(stage)
        return stage

    def finish(self, stage: Stage, results: dict[str, Any]) -> Stage:
        """Record that a stage is whole."""
        stage = dataclasses.replace(stage, state="done", results=results)
        _write(stage)
        log.info("stage %s: done", stage.name)
        return stage

    def stages(self) -> list[Stage]:
        """Every stage that has begun, in the order of their folders' names."""
        folders = [path.split("/") for path, _ in storage.list_files(self.root)]
        return [stage for parts in folders if parts[1:] == [STAGE_FILE] and (stage := self.recorded(parts[0]))]

    def config(self) -> Config:
        """The resolved config in run.json. Raises UserError where there is none, or none that this version reads."""
        path = self.path(RUN_FILE)
        try:
            return checked(Config, storage.read_json(path)["config"], path)
        except (FileNotFoundError, KeyError, ValueError) as error:
            raise UserError(
                f"{path} does not tell the run's config ({' '.join(str(error).split())[:300]}): give the folder that "
                "--run named, e.g. runs/demo; a run of an older ranksr must be built again"
            ) from error

    def command(self) -> list[str]:
        """The command that began or last continued the run; this process's own before that."""
        path = self.path(RUN_FILE)
        return storage.read_json(path)["command"] if storage.exists(path) else sys.argv

    def describe(self, config: Config, overrides: list[str]) -> None:
        """Write run.json: all that is needed to tell how these numbers came about."""
        storage.write_json(
            self.path(RUN_FILE),
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
def lock(root: str) -> Iterator[None]:
    """Keep other commands out of a run folder meanwhile; the lock dies with this process, however that ends.

    Raises UserError naming the process that has it. Buckets have no locks: see `cluster.reserve`.
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
    """Name of this process, for the error of another command."""
    return f"process {os.getpid()} on {platform.node()} since {datetime.datetime.now():%Y-%m-%d %H:%M:%S}"


def in_use(root: str, owner: str) -> str:
    """The error of a second command."""
    return f"{root} is in use by {owner}: wait until it ends, stop it, or choose another --run folder"


def _write(stage: Stage) -> None:
    entry = {
        "stage": stage.name,
        "identity": stage.identity,
        "done": stage.done,
        "fingerprint": stage.fingerprint,
        "results": stage.results,
        "inputs": stage.inputs,
        "settings": stage.settings,
        "remarks": stage.remarks,
    }
    storage.write_json(stage.path(STAGE_FILE), entry)


def _with_remarks(found: Stage, remarks: dict[str, Any]) -> Stage:
    """A recorded stage beside what is asked for now. An unfinished one goes on with the remarks of now."""
    keys = ", ".join(_differing(found.remarks, remarks))
    said = f"its curves were made with other values of {keys}" if keys else ""
    return dataclasses.replace(found, changed=said, remarks=found.remarks if found.done else remarks)


def _differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    keys = dict.fromkeys([*before, *now])
    return [key for key in keys if before.get(key, _ABSENT) != now.get(key, _ABSENT)]


def _changed_values(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [f"{key}: {before.get(key, 'absent')!r} -> {now.get(key, 'absent')!r}" for key in _differing(before, now)]


Changes = dict[str, dict[str, list[str]]]
"""Input -> `changed`, `added` and `gone` -> image_ids."""


def _changed_photographs(found: Stage, inputs: dict[str, str], photographs: Manifests) -> Changes:
    """The changed photographs of each differing input, where they are known."""
    differing = [key for key in _differing(found.inputs, inputs) if key in photographs]
    if not differing or not storage.exists(found.path(PHOTOGRAPHS)):
        return {}
    recorded = storage.read_json(found.path(PHOTOGRAPHS))
    changes: Changes = {}
    for key in (key for key in differing if key in recorded):
        before, now = recorded[key], photographs[key]()
        changes[key] = {
            "changed": sorted(name for name in before.keys() & now.keys() if before[name] != now[name]),
            "added": sorted(now.keys() - before.keys()),
            "gone": sorted(before.keys() - now.keys()),
        }
    return changes


def _count(changes: Changes) -> str:
    """`2 gone, 1 changed`."""
    kinds = ("gone", "changed", "added")
    totals = {kind: sum(len(each[kind]) for each in changes.values()) for kind in kinds}
    return ", ".join(f"{total} {kind}" for kind, total in totals.items() if total)


def _named(changes: dict[str, list[str]]) -> str:
    """`changed: a; added: b; gone: c, ... (5 in all)`."""
    every = [(kind, name) for kind, names in changes.items() for name in names]
    shown = [(kind, [name for of, name in every[:NAMED] if of == kind]) for kind in changes]
    text = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in shown if names)
    return text + (f", ... ({len(every)} in all)" if len(every) > NAMED else "")


def _refusal(found: Stage, wanted: Stage, changes: Changes) -> str:
    said = _changed_values(found.settings, wanted.settings)
    said += [f"photographs of {key}: {_named(names)}" for key, names in changes.items()]
    said += [f"input {key} changed" for key in _differing(found.inputs, wanted.inputs) if key not in changes]
    other = "photographs" if len(said) == len(changes) else "settings"
    return f"{found.folder} was made with other {other} ({'; '.join(said)}). Undo the change, {_remedy(found)}"


def _other_identity(found: Stage) -> str:
    if found.identity > IDENTITY:
        return (
            f"{found.folder} was made by a newer ranksr, which tells in another way what a stage was made of (identity "
            f"{found.identity} in its stage.json, {IDENTITY} here). Use that ranksr, {_remedy(found)}"
        )
    changes = "; ".join(text for number, text in IDENTITY_CHANGES.items() if number > found.identity)
    return (
        f"{found.folder} was made by an older ranksr, which told in another way what a stage was made of (identity "
        f"{found.identity}, {IDENTITY} here: {changes}). Use that ranksr, {_remedy(found)}"
    )


def _remedy(found: Stage) -> str:
    return f"choose another --run folder, or delete {found.folder} to build it again"


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
