"""Checks of a config against what lies outside it: metrics, names in a run, photographs in scikit-image's wheel."""

from collections.abc import Iterable

from ranksr import metrics
from ranksr.config import Config, UserError
from ranksr.data import sources
from ranksr.runs import BESIDE_STAGES, STAGES


def require_metrics(config: Config) -> None:
    """Raise UserError for a metric that is unknown, lacks its model, or cannot do what it is asked for."""
    gap = config.rank_dataset.gap
    shown = [(f"scoring.metrics={name}", name) for name in config.scoring.metrics]
    labels = [(f"ranker.metric={config.ranker.metric}", config.ranker.metric)]
    if gap and gap.metric:
        labels.append((f"rank_dataset.gap.metric={gap.metric}", gap.metric))
    for said, name in [*shown, *labels]:
        try:
            info = metrics.metric_info(name)
        except UserError as error:
            raise UserError(f"{error} ({said})") from error
        if name in ("ma", "pi") and config.scoring.ma_model is None:
            raise UserError(f"{said}: metric {name!r} needs scoring.ma_model: published, fit, or a file")
        if info.needs_reference and (said, name) in labels:
            raise UserError(
                f"{said} needs a reference image, and what orders patches must do without: "
                "choose niqe, ma, pi or one of pyiqa's without reference"
            )


def require_free_names(config: Config, stages: Iterable[str]) -> None:
    """Raise UserError where a method would share its folder of the run. `stages`: those that are no method's."""
    taken = [*stages, *(name.split(".")[0] for name in (*BESIDE_STAGES, STAGES))]
    for key, names in (("methods", config.methods), ("external", config.external)):
        if both := [name for name in names if name in taken]:
            raise UserError(
                f"{key}.{both[0]}: the name is taken by a part of every run; choose another than {', '.join(taken)}"
            )


def require_wheel(config: Config) -> None:
    """Raise UserError where a source names a photograph that scikit-image's wheel does not hold, or one twice."""
    for source in (config.data.hr, config.rank_dataset.hr, *(each.hr for each in config.test_sets)):
        if source:
            sources.require_wheel(source)
