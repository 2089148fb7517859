"""The method, one function per stage; a stage asks for its inputs by calling the stages before it.

    patches ──► srresnet ──► srgan            photographs ──(every method)──► rank_dataset ──► ranker ──► ranksrgan
            └─► esrgan_psnr ──► esrgan        every method x every test set ──► evaluation ──► report

Each stage is reused when it is done, continued when it was interrupted, and refused when it was made otherwise.
"""

import dataclasses
import functools
import logging
import shlex
import sys
from collections.abc import Callable, Collection, Iterable
from typing import Any

from ranksr import checkpoints, identity, metrics, preflight, report, storage
from ranksr.checkpoints import Checkpoints
from ranksr.config import Config, Method, files, with_overrides
from ranksr.config.schema import snapshot
from ranksr.context import Context as Context
from ranksr.errors import UserError
from ranksr.models import build_features
from ranksr.runs import CHECKPOINTS, METRICS, PICTURES, SCORES, WEIGHTS, Stage
from ranksr.scoring import calibration_ma, calibration_niqe, judge
from ranksr.stages.evaluation import write_evaluation
from ranksr.stages.patches import write_patches
from ranksr.stages.rank_dataset import Finished, Made, write_rank_dataset
from ranksr.train import launch
from ranksr.train.journal import Place, read_metrics

log = logging.getLogger(__name__)


def plan(context: Context, last: Callable[[Context], object] | None = None) -> list[Stage]:
    """Stages up to `last` (evaluation) in their present state, inputs first. Raises UserError for other settings."""
    context = dataclasses.replace(context, dry=True, stages={})
    (last or evaluation)(context)
    return list(context.stages.values())


def patches(context: Context) -> Stage:
    config = context.config
    return context.stage(
        "patches",
        identity.Identity(identity.patches(config), {}),
        lambda stage: write_patches(stage.folder, context.photographs(config.data.hr), config.data, config.seed),
        {"data.hr": config.data.hr},
    )


def generator(context: Context, name: str, label: str | None = None) -> Stage:
    """The trained generator of one method: srresnet, srgan, esrgan_psnr, esrgan, ranksrgan ...

    `label`: name of the stage, for METHOD@STEP.
    """
    if (label or name) in context.stages:  # asked for again by every later round
        return context.stages[label or name]
    config, method = context.config, context.config.methods[name]
    cut = patches(context)
    scoring, models = judge(context)
    start, start_inputs = _start(context, method)
    rankers = {each: ranker(context, each) for each in config.steered_by(name)}
    several = len(rankers) > 1
    steered_by = {f"ranker {each}" if several else "ranker": stage.fingerprint for each, stage in rankers.items()}
    files = _features_file(context) if method.uses_features else {}
    inputs = {"patches": cut.fingerprint, **start_inputs, **steered_by, **files}
    made_of = identity.training(config, f"methods.{name}", inputs, models)

    def build(stage: Stage) -> dict[str, Any]:
        if label and (kept := _kept_state(context, stage, name)):
            tensors = kept["learner"].get("average") or kept["learner"]["generator"]
            checkpoints.save_generator(stage.path(WEIGHTS), method.generator, tensors, {"step": kept["step"]})
            return {}
        weights = {each: stage.path(WEIGHTS) for each, stage in rankers.items()}
        refreshed = rankers if config.rank_content_loss.refresh else ()
        learned = {each: rank_dataset(context, config.learns_from(each)).folder for each in refreshed}
        local = _with_absolute_paths(config)
        return _train(context, stage, launch.SRJob(local, name, cut.folder, start, weights, scoring, learned))

    if label or context.watched != name:
        return context.stage(label or name, made_of, build)
    return context.stage(name, identity.watched(made_of), build, suffices=identity.is_made_as)


def network(context: Context, name: str) -> Stage:
    """The stage of a method, of METHOD@STEP, or of a blend: what leaves a generator's weights."""
    if name in context.config.blends:
        return blend(context, name)
    return generator(context, name) if snapshot(name)[1] is None else earlier(context, name)


def earlier(context: Context, name: str) -> Stage:
    """The generator of METHOD@STEP: from a checkpoint that its training kept, or trained so far again, bit for bit."""
    method = snapshot(name)[0]
    methods = {**context.config.methods, method: context.config.method_of(name)}
    shorter = dataclasses.replace(context, config=context.config.model_copy(update={"methods": methods}))
    return generator(shorter, method, name)


def _kept_state(context: Context, stage: Stage, method: str) -> dict[str, Any] | None:
    """The state at the last step of `stage` that a longer training of the same method kept; None where it did not."""

    # All but `steps`, and what validates (validation, scoring), count only where a training keeps its best weights.
    ends = {f"methods.{method}.train.{key}" for key in ("steps", "checkpoint", "best_metric", "validate_every_steps")}

    def made_of(each: Stage) -> dict[str, Any]:
        decides = {**each.settings, **each.inputs}
        return {key: value for key, value in decides.items() if key not in ends and not key.startswith("validation.")}

    longer = context.run.recorded(method)
    if longer is None:
        return None
    found, wanted = made_of(longer), made_of(stage)
    if {key: value for key, value in found.items() if key in wanted or not key.startswith("scoring.")} != wanted:
        return None
    return Checkpoints(longer.path(CHECKPOINTS), 1).load(context.config.methods[method].train.steps)


def blend(context: Context, name: str) -> Stage:
    """A network between two others."""
    asked = context.config.blends[name]
    first, second = (network(context, method) for method in asked.methods)
    inputs = {"first": first.fingerprint, "second": second.fingerprint}

    def build(stage: Stage) -> dict[str, Any]:
        checkpoints.save_blend(stage.path(WEIGHTS), first.path(WEIGHTS), second.path(WEIGHTS), asked.weight)
        return {}

    return context.stage(name, identity.Identity({"blend.weight": asked.weight}, inputs), build)


def _start(context: Context, method: Method) -> tuple[str | None, dict[str, str]]:
    """Path of the initial weights, and the stage inputs that they are."""
    if method.start is None:
        return None, {}
    if context.config.generator_of(method.start) is not None:
        stage = network(context, method.start)
        return stage.path(WEIGHTS), {method.start: stage.fingerprint}
    return storage.absolute(method.start), {"start": context.file_digest(method.start)}


def _features_file(context: Context) -> dict[str, str]:
    """The perceptual network's weights as a stage input, where a file holds them: by content, not by path."""
    weights = context.config.perceptual.weights
    return {} if weights in ("published", "random") else {"perceptual.weights": context.file_digest(weights)}


def _with_absolute_paths(config: Config) -> Config:
    weights = config.perceptual.weights
    if weights in ("published", "random"):
        return config
    return with_overrides(config, [f"perceptual.weights={storage.absolute(weights)}"])


def _train(context: Context, stage: Stage, job: launch.SRJob | launch.RankerJob) -> dict[str, Any]:
    run = context.run.parent or context.run
    texts = {"command": shlex.join(run.command()), "config": files.to_text(job.config.model_dump(mode="json"))}
    place = Place(f"{context.label}{stage.name}", stage.folder, context.run.tensorboard(stage), texts=texts)
    results = launch.train(job, place, tell_tune=stage.name == context.tuned)
    if "error" in results:
        raise RuntimeError(f"{stage.name}: {results['error']}")
    return results


@dataclasses.dataclass(frozen=True)
class _Methods:
    """The way each method makes its images, and the stage inputs that follow."""

    made: Made
    inputs: dict[str, str]
    photographs: dict[str, str]
    """Input to source, of images made elsewhere."""


def _methods(context: Context, names: tuple[str, ...], test_sets: tuple[str, ...] = ()) -> _Methods:
    """_Methods of `names`. With `test_sets`, a folder of `external` counts by its sub-folders of these names."""
    made, folders, inputs, photographs = dict[str, str](), dict[str, str](), dict[str, str](), dict[str, str]()
    for name in names:
        path = storage.absolute(context.config.external.get(name, ""))
        if context.config.generator_of(name) is not None:
            stage = network(context, name)
            made[name], inputs[name] = stage.path(WEIGHTS), stage.fingerprint
        elif name not in context.config.external:
            made[name] = name  # bicubic and hr
        elif storage.is_folder(path):
            made[name], folders[name] = "given", path
            each = {f"{name}, {test_set}": storage.join(path, test_set) for test_set in test_sets}
            photographs |= each or {name: path}
        else:
            made[name], inputs[name] = path, context.file_digest(path)
    return _Methods(Made(made, folders, inputs), inputs, photographs)


def _given_digests(context: Context, sources: Iterable[str]) -> dict[str, str]:
    return {photo.path: photo.digest for source in sources for photo in context.photographs(source)}


def rank_dataset(context: Context, name: str) -> Stage:
    """Patches of every method of a rank dataset side by side, scored."""
    config = context.config
    asked = config.rank_datasets[name]
    methods = _methods(context, asked.methods)
    scoring, models = judge(context)
    source = asked.hr or config.data.hr
    made_of = identity.rank_dataset(config, name, methods.inputs, models)

    def build(stage: Stage) -> dict[str, Any]:
        gap = asked.gap and asked.gap.model_copy(update={"metric": config.gap_metric(name)})
        rules = asked.model_copy(update={"gap": gap})
        made = dataclasses.replace(
            methods.made,
            fingerprints=made_of.inputs,
            digests=_given_digests(context, methods.photographs.values()),
        )
        names, photos = tuple(made_of.settings["metrics"]), context.photographs(source)
        return write_rank_dataset(
            stage.folder, photos, config.data, rules, made, names, scoring, context.upscalers, config.seed,
            _finished_in(context, stage),
        )  # fmt: skip

    return context.stage(
        name,
        made_of,
        build,
        {"photographs": source, **methods.photographs},
        functools.partial(identity.holds_labels, config, name),
    )


def _finished_in(context: Context, stage: Stage) -> Finished | None:
    """Of the run's other rank datasets, the one with most of the methods of `stage`, made under the same rules."""

    def rules(each: Stage) -> dict[str, Any]:
        return {key: value for key, value in each.settings.items() if key != "rank_dataset.methods"}

    found = []
    for name in context.config.rank_datasets:
        other = context.run.recorded(name) if name != stage.name else None
        if other is None or not other.done or rules(other) != rules(stage):
            continue
        if other.inputs.items() <= stage.inputs.items():
            found.append(Finished(other.folder, (*other.settings["rank_dataset.methods"], "hr")))
    return max(found, key=lambda each: len(each.methods), default=None)


def ranker(context: Context, name: str) -> Stage:
    """The trained Ranker of this name."""
    config = context.config
    ranked = rank_dataset(context, config.learns_from(name))
    return context.stage(
        name,
        identity.training(config, f"rankers.{name}", {"rank_dataset": ranked.fingerprint}, {}),
        lambda stage: _train(context, stage, launch.RankerJob(config, name, ranked.folder)),
    )


def stage_of(context: Context, name: str) -> Stage:
    """The stage of this name: that of a method, a Ranker or a rank dataset, or one of the others."""
    if context.config.generator_of(name) is not None:
        return network(context, name)
    named: tuple[tuple[Collection[str], Callable[[Context, str], Stage]], ...] = (
        (context.config.rankers, ranker),
        (context.config.rank_datasets, rank_dataset),
    )
    for names, stage in named:
        if name in names:
            return stage(context, name)
    return {each.__name__: each for each in _unnamed()}[name](context)


def rank_datasets(context: Context, only: str | None = None) -> list[Stage]:
    """Every rank dataset of the config, or the one named `only`. Raises UserError for a name that the config lacks."""
    names = tuple(context.config.rank_datasets)
    if only is not None and only not in names:
        raise UserError(f"no rank dataset is called {only}: this config has {', '.join(names) or 'none'}")
    return [rank_dataset(context, name) for name in names if only in (None, name)]


def _unnamed() -> tuple[Callable[[Context], Stage], ...]:
    """The stages whose names no config gives."""
    return patches, calibration_niqe, calibration_ma, evaluation


def evaluation(context: Context) -> Stage:
    """Scores and pictures of every method on every test set."""
    config = context.config
    methods = _methods(context, config.evaluation.methods, tuple(test_set.name for test_set in config.test_sets))
    scoring, models = judge(context)
    photographs = dict(methods.photographs)
    for test_set in config.test_sets:
        photographs[f"test set {test_set.name}"] = test_set.hr
        if test_set.lr:
            photographs[f"test set {test_set.name}, LR"] = test_set.lr

    def build(stage: Stage) -> dict[str, Any]:
        given = [source for key, source in photographs.items() if source not in {t.hr for t in config.test_sets}]
        made = dataclasses.replace(methods.made, digests=_given_digests(context, given))
        photos = {test_set.name: context.photographs(test_set.hr) for test_set in config.test_sets}
        names = config.scoring.metrics
        return write_evaluation(stage.folder, config.test_sets, photos, made, names, scoring, context.upscalers)

    return context.stage("evaluation", identity.evaluation(config, methods.inputs, models), build, photographs)


def write_report(context: Context) -> report.Story:
    """Write <run>/report from what the finished stages left. Returns what it shows."""
    story = tell(context)
    log.info("report: %s", report.build_report(context.run.path("report"), story))
    return story


def tell(context: Context) -> report.Story:
    """Gather what the report shows from the stages of a finished run."""
    stages = plan(context)
    evaluated = stages[-1]
    curves = {stage.name: read_metrics(stage.path(METRICS)) for stage in stages}
    done = {stage.name: stage for stage in stages if stage.done}
    told_elsewhere = ("seconds", "every_validation_location")  # in a column and in a section of their own
    return report.Story(
        config=context.config,
        scores=storage.read_table(evaluated.path(SCORES)),
        images=evaluated.path(PICTURES),
        curves={name: rows for name, rows in curves.items() if rows},
        stages=[
            {
                "name": stage.name,
                "folder": stage.folder,
                "fingerprint": stage.fingerprint,
                "seconds": stage.results.get("seconds"),
                "results": {key: value for key, value in stage.results.items() if key not in told_elsewhere},
            }
            for stage in stages
        ],
        remarks=report.remarks(context.config),
        ablations=report.read_ablations(context.run.root),
        people=report.read_studies(context.run.root),
        run=context.run.root,
        command=shlex.join(["python", *sys.argv]),
        rankers=[
            report.read_ranker(context.config, name, done[context.config.learns_from(name)], done[name].folder)
            for name in context.config.rankers
            if name in done
        ],
    )


def run_pipeline(context: Context, overrides: list[str]) -> report.Story:
    """Everything, up to the report. A finished run is left as it is, but for its report where people were asked: their
    answers come after it."""
    has_report = storage.exists(context.run.path("report", "index.html"))
    if not build_stages(context, overrides) and has_report and not report.read_studies(context.run.root):
        log.info("nothing to do: every stage of %s is done", context.run.root)
        return tell(context)
    return write_report(context)


def build_stages(context: Context, overrides: list[str], last: Callable[[Context], object] | None = None) -> bool:
    """Build what is missing up to `last` (evaluation); whether anything was."""
    config, stages = context.config, plan(context, last)
    missing = [stage.name for stage in stages if not stage.done]
    log.info("run %s: %d of %d stages are done", context.run.root, len(stages) - len(missing), len(stages))
    if missing:
        log.info("to build: %s", ", ".join(missing))
        storage.probe(context.run.root)
        preflight.require_matches(config, context.photographs, missing)
        preflight.require_networks(config, missing)
        fetch_published(config, missing)
        context.start_ray()  # a cluster that is too small refuses before anything is written
        if any(config.method_of(name) or name in config.rankers for name in missing):
            launch.prepare(config.compute)
        if context.run.parent is None:
            context.run.describe(config, overrides)
    (last or evaluation)(context)
    return bool(missing)


def fetch_published(config: Config, stages: list[str]) -> None:
    """Download now what these stages take from the network: a failure should not come after hours of training."""
    if config.scoring.ma_model == "published":
        metrics.load_models(None, "published")
    trained = [method for name in stages if (method := config.method_of(name))]
    if config.perceptual.weights == "published" and any(method.uses_features for method in trained):
        build_features(config.perceptual)


def require_known(config: Config) -> None:
    """Check what the config alone cannot: see `preflight.require_known`. Raises UserError."""
    preflight.require_known(config, [stage.__name__ for stage in _unnamed()])
