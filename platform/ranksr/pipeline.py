"""The method, one function per stage; a stage asks for its inputs by calling the stages before it.

    patches ──► srresnet ──► srgan            photographs ──(every method)──► rank_dataset ──► ranker ──► ranksrgan
            └─► esrgan_psnr ──► esrgan        every method x every test set ──► evaluation ──► report

Each stage is reused when it is done, continued when it was interrupted, and refused when it was made otherwise.
"""

import dataclasses
import logging
import shlex
import sys
import time
from collections.abc import Callable
from typing import Any

from ranksr import evaluate, metrics, preflight, report, storage
from ranksr.config import Config, Method, UserError
from ranksr.data import patches as patch_job
from ranksr.data import rank_dataset as rank_job
from ranksr.data import sources, statistics
from ranksr.data.calibration import fit_models
from ranksr.data.score import Judge, raw_metrics
from ranksr.data.upscale import UpscaleActors
from ranksr.models import build_features
from ranksr.runs import Run, Stage
from ranksr.train import launch
from ranksr.train.loop import Place

log = logging.getLogger(__name__)


@dataclasses.dataclass
class Context:
    """A config, the run it fills, and the stages met so far."""

    config: Config
    run: Run
    start_ray: Callable[[], None]
    """Called before the first stage that has work to do, so that a finished run needs no Ray."""
    dry: bool = False
    """Only find out how the stages stand; nothing is built."""
    tuned: str | None = None
    """The stage whose validations a trial of Ray Tune reports."""
    label: str = ""
    """Before the names of trainings in what their workers say: those of trials train side by side."""
    stages: dict[str, Stage] = dataclasses.field(default_factory=dict)
    digests: dict[str, str] = dataclasses.field(default_factory=dict)
    """Of sources and files, each read once however many stages, and trials, depend on it."""

    def digest(self, source: str) -> str:
        """Identity of a source of photographs."""
        if source not in self.digests:
            self.digests[source] = sources.source_digest(source)
        return self.digests[source]

    def file_digest(self, path: str) -> str:
        if path not in self.digests:
            self.digests[path] = storage.digest(path)
        return self.digests[path]

    def stage(
        self, name: str, settings: dict[str, Any], inputs: dict[str, str], build: Callable[[Stage], dict[str, Any]]
    ) -> Stage:
        """The stage, built if it is not done yet."""
        if name not in self.stages:
            found = self.run.find(name, settings, inputs)
            if not found.done and not self.dry:
                self.start_ray()
                found = self.run.begin(found)
                start = time.monotonic()
                results = build(found)
                found = self.run.finish(found, {**results, "seconds": round(time.monotonic() - start, 1)})
            self.stages[name] = found
        return self.stages[name]

    @property
    def actors(self) -> UpscaleActors:
        return UpscaleActors(self.config.compute.upscale_actors, self.config.compute.gpus_per_upscaler)


def plan(context: Context, last: Callable[[Context], Stage] | None = None) -> list[Stage]:
    """Every stage up to `last` (evaluation) as it stands, inputs first. Raises UserError for one made otherwise."""
    context = dataclasses.replace(context, dry=True, stages={})
    (last or evaluation)(context)
    return list(context.stages.values())


def patches(context: Context) -> Stage:
    config = context.config
    smallest = max(method.hr_patch_px for method in config.methods.values())
    settings = config.select("seed", *(f"data.{key}" for key in (*_DATA_KEYS, "sub_image_px", "sub_image_stride_px")))
    return context.stage(
        "patches",
        {**settings, "largest methods.*.hr_patch_px": smallest},
        {"data.hr": context.digest(config.data.hr)},
        lambda stage: patch_job.write_patches(stage.folder, config.data, smallest, config.seed),
    )


_DATA_KEYS = ("val_fraction", "images_per_part")
"""What to do about bad files is not among them: it does not change what is made of the good ones."""


def calibration(context: Context) -> Stage:
    """Fits the metric models for which the config says `fit`, on the photographs themselves."""
    config, scoring = context.config, context.config.scoring
    inputs = {"data.hr": context.digest(config.data.hr)}
    if scoring.ma_opinions:
        inputs["scoring.ma_opinions"] = context.file_digest(scoring.ma_opinions)
        scoring = scoring.model_copy(update={"ma_opinions": storage.absolute(scoring.ma_opinions)})
    fitted = [key for key in ("niqe_model", "ma_model") if getattr(scoring, key) == "fit"]
    return context.stage(
        "calibration",
        {**config.select("seed", "scoring.profile"), "fitted": fitted},
        inputs,
        lambda stage: fit_models(stage.folder, config.data.hr, scoring, config.seed),
    )


def judge(context: Context) -> tuple[Judge, dict[str, str]]:
    """The scoring models as files, and their fingerprints."""
    scoring = context.config.scoring
    inputs: dict[str, str] = {}

    def resolve(key: str, model: str | None) -> str | None:
        if model is None or model == "published":
            inputs[f"scoring.{key}"] = str(model)
            return model
        if model == "fit":
            stage = calibration(context)
            inputs[f"scoring.{key}"] = stage.fingerprint
            return stage.path({"niqe_model": "niqe.npz", "ma_model": "ma.forest"}[key])
        inputs[f"scoring.{key}"] = context.file_digest(model)
        return storage.absolute(model)

    niqe, ma = resolve("niqe_model", scoring.niqe_model), resolve("ma_model", scoring.ma_model)
    assert niqe is not None
    return Judge(scoring.profile, niqe, ma), inputs


def generator(context: Context, name: str) -> Stage:
    """The trained generator of one method: srresnet, srgan, esrgan_psnr, esrgan, ranksrgan ..."""
    config, method = context.config, context.config.methods[name]
    cut = patches(context)
    scoring, inputs = judge(context)
    inputs["patches"] = cut.fingerprint
    start = _start(context, method, inputs)
    trained_ranker = ranker(context) if method.weights.rank_content else None
    if trained_ranker:
        inputs["ranker"] = trained_ranker.fingerprint
    settings = config.select("seed", "scoring.profile", "validation", f"methods.{name}", *_loss_settings(method))
    settings = _reseeded(settings, f"methods.{name}.train")
    settings.pop(f"methods.{name}.start")  # an input: where a file lies does not matter, what it holds does
    if method.weights.perceptual:
        _external(context, settings, inputs, "perceptual.weights")

    def build(stage: Stage) -> dict[str, Any]:
        weights = trained_ranker.path("weights.pt") if trained_ranker else None
        local = _with_absolute_paths(config)
        return _train(context, stage, launch.SRJob(local, name, cut.folder, start, weights, scoring))

    return context.stage(name, settings, inputs, build)


def _loss_settings(method: Method) -> list[str]:
    weights = method.weights
    used = {
        "perceptual": weights.perceptual,
        "discriminator": weights.adversarial,
        "rank_content": weights.rank_content,
    }
    return [key for key, weight in used.items() if weight]


def _start(context: Context, method: Method, inputs: dict[str, str]) -> str | None:
    if method.start is None:
        return None
    if method.start in context.config.methods:
        stage = generator(context, method.start)
        inputs[method.start] = stage.fingerprint
        return stage.path("weights.pt")
    inputs["start"] = context.file_digest(method.start)
    return storage.absolute(method.start)


def _external(context: Context, settings: dict[str, Any], inputs: dict[str, str], key: str) -> None:
    """A file named by a setting counts by its content, not by its path."""
    if settings[key] not in ("published", "random"):
        inputs[key] = context.file_digest(settings.pop(key))


def _reseeded(settings: dict[str, Any], training: str) -> dict[str, Any]:
    """A training's own seed stands in the run's place, so that naming the run's seed changes nothing."""
    own = settings.pop(f"{training}.seed")
    return settings if own is None else {**settings, "seed": own}


def _with_absolute_paths(config: Config) -> Config:
    weights = config.perceptual.weights
    if weights in ("published", "random"):
        return config
    return config.with_overrides([f"perceptual.weights={storage.absolute(weights)}"])


def _train(context: Context, stage: Stage, job: launch.SRJob | launch.RankerJob) -> dict[str, Any]:
    place = Place(f"{context.label}{stage.name}", stage.folder, context.run.tensorboard(stage))
    results = launch.train(job, place, tell_tune=stage.name == context.tuned)
    if "error" in results:
        raise RuntimeError(f"{stage.name}: {results['error']}")
    return results


def _made(context: Context, names: tuple[str, ...], test_sets: tuple[str, ...] = ()) -> rank_job.Made:
    """By what each method's images are made, and the fingerprints of that.

    With `test_sets`, a folder of images made elsewhere counts by its sub-folders of these names.
    """
    made, folders, fingerprints = dict[str, str](), dict[str, str](), dict[str, str]()
    for name in names:
        path = storage.absolute(context.config.external.get(name, ""))
        if name in context.config.methods:
            stage = generator(context, name)
            made[name], fingerprints[name] = stage.path("weights.pt"), stage.fingerprint
        elif name not in context.config.external:
            made[name] = name  # bicubic and hr
        elif storage.is_folder(path):
            made[name], folders[name] = "given", path
            listed = [storage.join(path, test_set) for test_set in test_sets] or [path]
            fingerprints[name] = storage.digest_of([context.digest(each) for each in listed])
        else:
            made[name], fingerprints[name] = path, context.file_digest(path)
    return rank_job.Made(made, folders, fingerprints)


def rank_dataset(context: Context) -> Stage:
    """Patches of every method side by side, scored."""
    config = context.config
    scoring, inputs = judge(context)
    made = _made(context, config.rank_dataset.methods)
    made = dataclasses.replace(made, fingerprints={**inputs, **made.fingerprints})
    source = config.rank_dataset.hr or config.data.hr
    gap = config.rank_dataset.gap
    if gap is not None and gap.metric is None:
        config = config.with_overrides([f"rank_dataset.gap.metric={config.ranker.metric}"])
    settings = config.select("seed", "scoring.profile", "rank_dataset", *(f"data.{key}" for key in _DATA_KEYS))
    settings.pop("rank_dataset.hr")
    names = raw_metrics(config)
    data = config.data.model_copy(update={"hr": source})
    return context.stage(
        "rank_dataset",
        {**settings, "metrics": list(names)},
        {"photographs": context.digest(source), **made.fingerprints},
        lambda stage: rank_job.write_rank_dataset(
            stage.folder, data, config.rank_dataset, made, names, scoring, context.actors, config.seed
        ),
    )


def ranker(context: Context) -> Stage:
    ranked = rank_dataset(context)
    config = context.config
    return context.stage(
        "ranker",
        _reseeded(config.select("seed", "validation", "ranker"), "ranker.train"),
        {"rank_dataset": ranked.fingerprint},
        lambda stage: _train(context, stage, launch.RankerJob(config, ranked.folder)),
    )


def stage_of(context: Context, name: str) -> Stage:
    """The stage of this name: that of a method, or one of the others."""
    if name in context.config.methods:
        return generator(context, name)
    return {each.__name__: each for each in _other_stages()}[name](context)


def _other_stages() -> tuple[Callable[[Context], Stage], ...]:
    """The stages that are no method's training."""
    return patches, calibration, rank_dataset, ranker, evaluation


def evaluation(context: Context) -> Stage:
    """Scores and pictures of every method on every test set."""
    config = context.config
    scoring, inputs = judge(context)
    made = _made(context, config.evaluation.methods, tuple(test_set.name for test_set in config.test_sets))
    inputs |= made.fingerprints
    for test_set in config.test_sets:
        inputs[f"test set {test_set.name}"] = context.digest(test_set.hr)
        if test_set.lr:
            inputs[f"test set {test_set.name}, LR"] = context.digest(test_set.lr)
    return context.stage(
        "evaluation",
        config.select("scoring.profile", "scoring.metrics", "evaluation"),
        inputs,
        lambda stage: evaluate.evaluate(
            stage.folder, config.test_sets, made, config.scoring.metrics, scoring, context.actors
        ),
    )


def write_report(context: Context) -> report.Story:
    """Write <run>/report from what the finished stages left. Returns what it shows."""
    story = tell(context)
    log.info("report: %s", report.build_report(context.run.path("report"), story))
    return story


def tell(context: Context) -> report.Story:
    """Gather what the report shows from the stages of a finished run."""
    stages = plan(context)
    evaluated = stages[-1]
    curves = {stage.name: storage.read_jsonl(stage.path("metrics.jsonl")) for stage in stages}
    ranked = next((stage for stage in stages if stage.name == "rank_dataset" and stage.done), None)
    scores = statistics.read_scores(ranked, context.config.ranker) if ranked else None
    judged = [stage.path("ranker_scores.parquet") for stage in stages if stage.name == "ranker" and stage.done]
    told_elsewhere = ("seconds", "every_validation_location")  # in a column and in a section of their own
    return report.Story(
        config=context.config,
        scores=storage.read_table(evaluated.path("scores.parquet")),
        images=evaluated.path("images"),
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
        command=shlex.join(["python", *sys.argv]),
        rank_dataset=statistics.summarise(scores, with_patches=True) if scores else None,
        ranker_scores=next((storage.read_table(path) for path in judged if storage.exists(path)), None),
    )


def run_pipeline(context: Context, overrides: list[str]) -> report.Story:
    """Everything, up to the report. A finished run is left as it is."""
    if not build_stages(context, overrides) and storage.exists(context.run.path("report", "index.html")):
        log.info("nothing to do: every stage of %s is done", context.run.root)
        return tell(context)
    return write_report(context)


def build_stages(context: Context, overrides: list[str], last: Callable[[Context], Stage] | None = None) -> bool:
    """Build what is missing up to `last` (evaluation); whether anything was."""
    stages = plan(context, last)
    missing = [stage.name for stage in stages if not stage.done]
    log.info("run %s: %d of %d stages are done", context.run.root, len(stages) - len(missing), len(stages))
    if missing:
        log.info("to build: %s", ", ".join(missing))
        storage.probe(context.run.root)
        fetch_published(context.config, missing)
        context.start_ray()  # a cluster that is too small refuses before anything is written
        if context.run.parent is None:
            context.run.describe(context.config, overrides)
    (last or evaluation)(context)
    return bool(missing)


def fetch_published(config: Config, stages: list[str]) -> None:
    """Download now what these stages take from the network: a failure should not come after hours of training."""
    scoring = config.scoring
    if "published" in (scoring.niqe_model, scoring.ma_model):
        models = (model if model == "published" else None for model in (scoring.niqe_model, scoring.ma_model))
        metrics.load_models(*models)
    trained = [config.methods[name] for name in stages if name in config.methods]
    if config.perceptual.weights == "published" and any(method.weights.perceptual for method in trained):
        build_features(config.perceptual)


def require_known(config: Config) -> None:
    """Check what the config alone cannot: names of metrics and what they need, of a run's folders, of the wheel's
    photographs. Raises UserError."""
    preflight.require_metrics(config)
    preflight.require_free_names(config, [stage.__name__ for stage in _other_stages()])
    preflight.require_wheel(config)
    patch_px, needed = config.rank_dataset.patch_px, metrics.smallest_niqe_px(config.scoring.profile)
    gap = config.rank_dataset.gap
    for key, metric in (("ranker.metric", config.ranker.metric), ("rank_dataset.gap.metric", gap and gap.metric)):
        if metric in ("niqe", "pi") and patch_px < needed:
            raise UserError(
                f"rank_dataset.patch_px={patch_px} is too small for {key}={metric}: "
                f"NIQE needs {needed} px under the profile {config.scoring.profile}"
            )
