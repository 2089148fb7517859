"""The scoring models of a run: files that its config names, or stages that fit them."""

from collections.abc import Callable

from ranksr import identity, storage
from ranksr.context import Context
from ranksr.data import digests
from ranksr.metrics.engine import Judge
from ranksr.metrics.ma.fit import read_opinions
from ranksr.runs import Stage
from ranksr.stages import calibration


def calibration_niqe(context: Context) -> Stage:
    """Fits NIQE's model to the photographs, where scoring.niqe_model=fit."""
    data, profile = context.config.data, context.config.scoring.profile
    return context.stage(
        "calibration_niqe",
        identity.Identity(context.config.select("scoring.profile"), {}),
        lambda stage: calibration.fit_niqe(stage.folder, context.photographs(data.hr), data, profile),
        {"data.hr": data.hr},
    )


def calibration_ma(context: Context) -> Stage:
    """Fits Ma's model to the photographs, or to opinions, where scoring.ma_model=fit."""
    config, data, scoring = context.config, context.config.data, context.config.scoring
    settings = config.select("seed", "scoring.profile")
    if scoring.ma_opinions:
        opinions = storage.absolute(scoring.ma_opinions)
        return context.stage(
            "calibration_ma",
            identity.Identity(settings, {"scoring.ma_opinions": _opinions_digest(context, opinions)}),
            lambda stage: calibration.fit_ma_to_opinions(stage.folder, opinions, scoring.profile, config.seed),
        )
    return context.stage(
        "calibration_ma",
        identity.Identity(settings, {}),
        lambda stage: calibration.fit_ma(
            stage.folder, context.photographs(data.hr), data, scoring.profile, config.seed
        ),
        {"data.hr": data.hr},
    )


def _opinions_digest(context: Context, path: str) -> str:
    """Identity of a CSV of opinions and of the images that it names."""
    key = f"opinions of {path}"
    if key not in context.digests:
        rated = [str(image) for image, _ in read_opinions(path)]
        found = digests.of_files(dict.fromkeys(rated))
        context.digests[key] = storage.digest_of([context.file_digest(path), [found[image] for image in rated]])
    return context.digests[key]


def judge(context: Context) -> tuple[Judge, dict[str, str]]:
    """The scoring models as files, and their fingerprints by key."""
    scoring = context.config.scoring
    models: dict[str, str] = {}

    def resolve(metric: str, model: str, fit: Callable[[Context], Stage]) -> str:
        key = identity.SCORING_MODELS[metric]
        if model == "published":
            models[key] = model
            return model
        if model == "fit":
            stage = fit(context)
            models[key] = stage.fingerprint
            return stage.path(calibration.MODEL_FILES[metric])
        models[key] = context.file_digest(model)
        return storage.absolute(model)

    niqe = resolve("niqe", scoring.niqe_model, calibration_niqe)
    ma = resolve("ma", scoring.ma_model, calibration_ma) if scoring.ma_model is not None else None
    return Judge(scoring.profile, niqe, ma), models
