"""`ranksr show`: states, times and sizes of a run and its trials, and what a re-run would do."""

from collections.abc import Iterable

from ranksr import pipeline, report, storage
from ranksr.ablation.results import read_stopped
from ranksr.ablation.schedule import plan_trial
from ranksr.ablation.trials import require_evaluated
from ranksr.config import with_overrides
from ranksr.errors import StorageError, UserError
from ranksr.runs import CHECKPOINTS, RESULTS, Run, Stage
from ranksr.terminal import aligned


class Shown:
    """A run folder whose files are listed once."""

    def __init__(self, root: str) -> None:
        """Raises UserError when `root` is no run."""
        self.run = Run(storage.absolute(root))
        self.config = self.run.config()
        self.files = storage.list_files(self.run.root)
        self.digests: dict[str, str] = {}

    def size(self, folder: str) -> int:
        """Bytes under a folder, given relative to the run or absolute."""
        inside = folder.removeprefix(self.run.root).strip("/")
        return sum(size for name, size in self.files if name.startswith(f"{inside}/") or not inside)

    def step(self, stage: Stage) -> int:
        """The step of an unfinished training's last checkpoint; 0 without one."""
        inside = stage.path(CHECKPOINTS, "step_").removeprefix(self.run.root).strip("/")
        numbers = [name.removeprefix(inside).split(".")[0] for name, _ in self.files if name.startswith(inside)]
        return max((int(number) for number in numbers if number.isdigit()), default=0)

    def would(self, stage: Stage) -> str:
        """The action of a re-run on a stage."""
        if stage.done:
            return "reuse"
        if stage.state == "new":
            return "build"
        step = self.step(stage)
        return (f"continue after step {step}" if step else "continue") + (f", {stage.changed}" if stage.changed else "")


def show(root: str) -> str:
    """The text for a terminal. `root` is local or s3://bucket/prefix; nothing is changed there."""
    shown = Shown(root)
    parts = [_run(shown)]
    parts += [_ablation(shown, name) for name in _ablation_names(shown)]
    return "\n".join([*parts, _sizes(shown)])


def _run(shown: Shown) -> str:
    stages, refusal = _plan(shown)
    lines = [["stage", "state", "time", "size", "a re-run would"]]
    for stage in stages:
        seconds = report.duration(stage.results.get("seconds"))
        would = "refuse, see below" if refusal else shown.would(stage)
        lines.append([stage.name, stage.state, seconds, _bytes(shown.size(stage.folder)), would])
    done = sum(stage.done for stage in stages)
    text = f"{shown.run.root}: {done} of {len(stages)} stages done, {_bytes(shown.size(''))}\n{aligned(lines)}"
    return text + (f"a re-run would refuse: {refusal}\n" if refusal else "")


def _plan(shown: Shown) -> tuple[list[Stage], str | None]:
    """The stages, and why a re-run would refuse; then they are those that are recorded."""
    try:
        context = pipeline.Context(shown.config, shown.run, start_ray=lambda: None, digests=shown.digests)
        return pipeline.plan(context), None
    except (UserError, StorageError) as error:
        return shown.run.stages(), str(error)


def _ablation_names(shown: Shown) -> list[str]:
    paths = [name.split("/") for name, _ in shown.files]
    return [path[1] for path in paths if path[0] == "ablation" and path[2:] == [RESULTS]]


def _ablation(shown: Shown, name: str) -> str:
    found = report.read_ablation(shown.run.root, name)
    stopped = read_stopped(shown.run, name)
    lines = [["trial", "seed", "state", "step", "time", "a re-run would"]]
    for trial in found.trials:
        for each in trial.seeds:
            state: str = each.state
            would = "refuse"
            try:
                config = with_overrides(shown.config, each.overrides)
                require_evaluated(config, found.method)
                watched = found.method if found.search else None
                stages = plan_trial(config, shown.run, shown.digests, watched)
                training = next(stage for stage in stages if stage.name == found.method)
                missing = [stage for stage in stages if not stage.done]
                if missing and (training.fingerprint not in stopped or trial.name == found.base):
                    state = "failed" if each.state == "failed" else "unfinished" if _begun(missing) else "waiting"
                    would = ", ".join(f"{shown.would(stage)} {stage.name}" for stage in missing)
                else:
                    state, would = "stopped early" if missing else "done", "reuse"
            except (UserError, StorageError) as error:
                would = f"refuse: {error}"
            step = f"{each.step or 0}/{each.steps}"
            lines.append([trial.name, str(each.seed), state, step, report.duration(each.seconds), would])
    done = sum(line[2] == "done" for line in lines)
    return f"ablation {name}, {found.about}: {done} of {len(lines) - 1} trials done\n{aligned(lines)}"


def _begun(missing: Iterable[Stage]) -> bool:
    return any(stage.state == "unfinished" for stage in missing)


def _sizes(shown: Shown) -> str:
    """Sizes of the folders beside the run's stages."""
    places: dict[str, int] = {}
    for name, size in shown.files:
        parts = name.split("/")
        place = "/".join(parts[:2]) if parts[0] == "ablation" else parts[0]
        if place in ("tensorboard", "report", "ablation/stages"):
            places[place] = places.get(place, 0) + size
    return "beside the stages: " + (", ".join(f"{place} {_bytes(size)}" for place, size in places.items()) or "nothing")


def _bytes(size: float) -> str:
    """`512 B`, `1.23 MB`."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"
