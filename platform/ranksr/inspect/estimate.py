"""What is missing in a run, in time, bytes and dollars: at rates of finished stages, else of a measurement."""

import dataclasses
import math
import time
from collections.abc import Iterable, Mapping, Sequence

from ranksr import cluster, pipeline, runs, storage
from ranksr.ablation import schedule
from ranksr.cluster import Node
from ranksr.config import Config, Training
from ranksr.config.schema import snapshot
from ranksr.data.labels import raw_metrics
from ranksr.data.sources import Photo
from ranksr.inspect import rates
from ranksr.inspect.rates import FITTED_ROWS, Rates
from ranksr.metrics import made_of
from ranksr.metrics.ma import fit
from ranksr.runs import Stage
from ranksr.train.steering import PHASES
from ranksr.vitals import Row

LONGEST = 3
"""Stages whose own time the row names; --json has all."""
LOOKED_AT = 4
"""Photographs of each source that the measurement reads."""
MEASURED_WITHIN_SECONDS = 600
"""Patience with a cluster whose CPUs others hold, and with the measurement."""
TRAIN_STARTS_SECONDS, KEPT_START_SECONDS = 8.5, 0.3
"""Of a training with Ray Train's new workers, and with those that are kept, on two idle cores (docs/performance.md)."""


@dataclasses.dataclass(frozen=True)
class Asked:
    """What the command line says of it."""

    price_per_core_hour: float | None = None
    """Dollars, as the other price."""
    price_per_gpu_hour: float | None = None
    rates: str | None = None
    """Another run, whose finished stages tell their rates."""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Of one missing stage."""

    stage: str
    seconds: float
    size: float
    """Bytes in the run's storage."""
    rate: str
    """Where it was measured: on a machine, or by stages of a run."""


@dataclasses.dataclass(frozen=True)
class Machines:
    """What the work has to itself."""

    nodes: Sequence[Node]
    start_seconds: float
    """Until a new process has imported what it needs."""

    @property
    def cpus(self) -> float:
        return sum(each.cpus for each in self.nodes)

    @property
    def gpus(self) -> float:
        return sum(each.gpus for each in self.nodes)


def missing(config: Config, root: str) -> list[Stage]:
    """The stages that a start would build. Raises UserError where it would refuse the run.

    A run without stages is not asked what its photographs hold: reading a corpus takes minutes.
    """
    run = runs.Run(root)
    known = {} if run.stages() else _AllKnown()
    return [
        stage for stage in pipeline.plan(pipeline.Context(config, run, lambda: None, digests=known)) if not stage.done
    ]


class _AllKnown(dict[str, str]):
    """Digests of every source and file, which decide nothing where there is no stage to compare with."""

    def __contains__(self, key: object) -> bool:
        return True

    def __missing__(self, key: str) -> str:
        return ""


def measure(config: Config, photographs: Mapping[str, Sequence[Photo]], stages: Iterable[Stage]) -> tuple[Rates, float]:
    """Rates of as many processes side by side as a training has workers, those of the slowest, which the others wait
    for; and the seconds until it was ready.

    Raises what went wrong there, TimeoutError where no CPU became free.
    """
    compute, sampled = config.compute, dict[str, list[str]]()
    for source in dict.fromkeys([config.data.hr, *photographs]):
        found = photographs[source]
        sampled[source] = [found[place].path for place in range(0, len(found), -(-len(found) // LOOKED_AT))]
    used = set(config.evaluation.methods).union(*(each.methods for each in config.rank_datasets.values()))
    foreign = {name for name, path in config.external.items() if not storage.is_folder(path)}
    networks = sorted(
        name for name in used if name not in config.methods and (config.generator_of(name) or name in foreign)
    )
    sent = time.time()
    copies = cluster.ask_side_by_side(
        rates.measure, config, sampled, networks, sorted(scores_of(config, stages)),
        count=compute.num_workers, cpus=compute.cpus_per_worker, gpus=compute.gpus_per_worker,
        within_seconds=MEASURED_WITHIN_SECONDS,
    )  # fmt: skip
    measured = max(copies, key=lambda copy: sum(network.step_seconds for network in copy.networks.values()))
    return measured, max(0.0, max(copy.ready for copy in copies) - sent)


def scores_of(config: Config, stages: Iterable[Stage]) -> set[str]:
    """The metrics that stages compute."""
    found = {"niqe", "psnr", *(["ma"] if config.scoring.ma_model else [])}
    for stage in stages:
        if stage.name in config.rank_datasets:
            found |= set(raw_metrics(config, stage.name))
        elif stage.name == "evaluation":
            found |= {raw for name in config.scoring.metrics for raw in made_of(name)}
    return found


class Estimator:
    """Seconds and bytes of stages, from `rates`."""

    def __init__(self, config: Config, photographs: Mapping[str, Sequence[Photo]], found: Rates, machines: Machines):
        self.config, self.rates, self.machines = config, found, machines
        self.counts = {source: len(photos) for source, photos in photographs.items()}
        compute = config.compute
        fitting = machines.gpus / compute.gpus_per_upscaler if compute.gpus_per_upscaler else machines.cpus
        self.actors = compute.upscale_actors or max(1, int(fitting))
        self.keeps_workers = len(machines.nodes) == 1 and not compute.gpus_per_worker
        self.cores = max(1, min(machines.cpus, self.actors)) if not compute.gpus_per_upscaler else max(1, machines.cpus)

    def of(self, stage: Stage) -> tuple[float, float]:
        """Seconds and bytes of a stage."""
        name = stage.name
        if name in self.config.rankers:
            return self._ranker(name)
        if name in self.config.rank_datasets:
            return self._rank_dataset(name)
        if (method := self.config.method_of(name)) is not None:
            return self._training(snapshot(name)[0], method.train)
        match name:
            case "patches":
                return self._patches()
            case "calibration_niqe":
                return self._fit_niqe()
            case "calibration_ma":
                return self._fit_ma()
            case "evaluation":
                return self._evaluation()
        return 0.0, self.rates.networks[
            snapshot(name)[0]
        ].weights_bytes if name in self.rates.networks else 0.0  # a blend

    def _scored(self, metrics: Iterable[str]) -> float:
        """Seconds to score a pixel, as far as the metrics were timed."""
        raw = {each for name in metrics for each in made_of(name)}
        return sum(self.rates.metric_seconds.get(name, 0.0) for name in raw)

    def _made(self, methods: Iterable[str]) -> float:
        """Seconds to make a pixel of the images of methods."""
        return sum(self.rates.networks[name].pixel_seconds for name in methods if name in self.rates.networks)

    def _of_each(self, source: str) -> tuple[int, rates.Photographs]:
        return self.counts[source], self.rates.photographs[source]

    def _patches(self) -> tuple[float, float]:
        count, photo = self._of_each(self.config.data.hr)
        pixels = photo.sub_images * (1 + 1 / 16)
        seconds = count * (photo.read_seconds + pixels * self.rates.png_seconds)
        return self.machines.start_seconds + seconds / max(1, self.machines.cpus), count * pixels * self.rates.png_bytes

    def _fit_niqe(self) -> tuple[float, float]:
        count, photo = self._of_each(self.config.data.hr)
        return count * (photo.read_seconds + photo.pixels * self._scored(["niqe"])), 0.0

    def _fit_ma(self) -> tuple[float, float]:
        count, photo = self._of_each(self.config.data.hr)
        rungs = 1 + sum(len(strengths) for _, strengths in fit.LADDER)
        photos, rows = min(count, fit.MAX_PHOTOS), min(count, fit.MAX_PHOTOS) * len(fit.SIDES_PX) * rungs
        crops = photos * rungs * sum(min(side * side, photo.pixels) for side in fit.SIDES_PX)
        growth = rows * math.log2(max(rows, 2)) / (FITTED_ROWS * math.log2(FITTED_ROWS))
        seconds = count * photo.read_seconds + crops * self._scored(["ma"])
        return seconds + fit.NUM_TREES * growth * self.rates.fit_seconds, 0.0

    def _training(self, name: str, training: Training) -> tuple[float, float]:
        config, network = self.config, self.rates.networks[name]
        metrics = ["niqe", "psnr", *(["pi"] if config.scoring.ma_model else [])]
        pixels = config.data.sub_image_px**2
        ranked = sum(PHASES * self.rates.networks[each].pixel_seconds for each in config.steered_by(name))
        image = pixels * (network.pixel_seconds + ranked + self._scored(metrics))
        step = network.step_seconds
        if refresh := config.rank_content_loss.refresh:
            for each in config.steered_by(name):
                patch = config.rank_datasets[config.learns_from(each)].patch_px ** 2
                # Threads score meanwhile; on CPUs they take the time of others.
                scored = self._scored([config.rankers[each].metric]) if not config.compute.gpus_per_worker else 0.0
                scored *= 1 + refresh.perturbed
                made = refresh.patches * patch * (network.pixel_seconds + scored) / config.compute.num_workers
                step += (made + refresh.ranker_steps * self.rates.networks[each].step_seconds) / refresh.every_steps
        return self._trained(training, step, image * config.validation.num_patches, network)

    def _ranker(self, name: str) -> tuple[float, float]:
        config, ranker, network = self.config, self.config.rankers[name], self.rates.networks[name]
        rules = config.rank_datasets[config.learns_from(name)]
        source = rules.hr or config.data.hr
        count, photo = self._of_each(source)
        held_out = count * config.data.val_fraction * photo.locations.get(config.learns_from(name), 0)
        location = len(ranker.methods) * rules.patch_px**2 * network.pixel_seconds
        seconds, size = self._trained(
            ranker.train, network.step_seconds, location * min(held_out, config.validation.num_patches), network
        )
        return seconds + held_out * location / config.compute.num_workers, size

    def _trained(
        self, training: Training, step: float, validation: float, network: rates.Network
    ) -> tuple[float, float]:
        """`validation`: seconds of one, on one worker."""
        compute = self.config.compute
        validations = -(-training.steps // training.validate_every_steps)
        start = KEPT_START_SECONDS if self.keeps_workers else TRAIN_STARTS_SECONDS
        seconds = start + training.steps * step + validations * validation / compute.num_workers
        checkpoints = min(compute.keep_checkpoints, -(-training.steps // compute.checkpoint_every_steps))
        best = training.checkpoint == "best"
        return seconds, checkpoints * network.checkpoint_bytes + (1 + best) * network.weights_bytes

    def _rank_dataset(self, name: str) -> tuple[float, float]:
        rules = self.config.rank_datasets[name]
        count, photo = self._of_each(rules.hr or self.config.data.hr)
        methods = dict.fromkeys([*rules.methods, "hr"])
        patches = photo.locations[name] * len(methods) * rules.patch_px**2
        work = patches * (self.rates.png_seconds + self._scored(raw_metrics(self.config, name)))
        seconds = self._side_by_side(count, photo, self._made(methods), work)
        return seconds, count * patches * self.rates.png_bytes

    def _evaluation(self) -> tuple[float, float]:
        methods, seconds, size = dict.fromkeys([*self.config.evaluation.methods, "hr"]), 0.0, 0.0
        for test_set in self.config.test_sets:
            count, photo = self._of_each(test_set.hr)
            pictures = photo.pixels * (len(methods) + 1 / 16)
            work = pictures * (self.rates.png_seconds + self._scored(self.config.scoring.metrics))
            seconds += self._side_by_side(count, photo, self._made(methods), work)
            size += count * pictures * self.rates.png_bytes
        return seconds, size

    def _side_by_side(self, count: int, photo: rates.Photographs, made: float, work: float) -> float:
        """Seconds of a job whose actors make images of photographs, at `made` a pixel, and spend `work` on scores."""
        actors, cores = min(self.actors, count), min(self.cores, count)
        if not self.config.compute.gpus_per_upscaler:
            return self.machines.start_seconds + count * (photo.read_seconds + photo.pixels * made + work) / cores
        on_gpus = count * (photo.read_seconds + photo.pixels * made) / actors
        return self.machines.start_seconds + max(on_gpus, count * work / cores)  # they stream


def recorded_seconds(
    run: runs.Run, stages: Iterable[Stage], photographs: Mapping[str, int], num_workers: int
) -> dict[str, float]:
    """Seconds of those of the stages of which the run, or a trial of it, has finished one of the same name.

    `photographs`: stage to the number of those that it is made of, where its time grows with them.
    """
    done = [*run.stages(), *run.trials.stages()]
    rates = schedule.rates_of(done, num_workers)
    had = {stage.name: stage.results["images"] for stage in done if isinstance(stage.results.get("images"), int)}
    return {
        stage.name: rates[stage.name]
        * schedule.work(stage)
        / num_workers
        * (photographs[stage.name] / had[stage.name] if stage.name in photographs and had.get(stage.name) else 1)
        for stage in stages
        if stage.name in rates
    }


def counted(config: Config, photographs: Mapping[str, Sequence[Photo]]) -> dict[str, int]:
    """Stage to the number of its photographs, of those whose results tell how many they had."""
    named = {name: len(photographs[each.hr or config.data.hr]) for name, each in config.rank_datasets.items()}
    return named | dict.fromkeys(("patches", "calibration_niqe", "calibration_ma"), len(photographs[config.data.hr]))


def estimate(
    config: Config,
    root: str,
    photographs: Mapping[str, Sequence[Photo]],
    nodes: Sequence[Node],
    asked: Asked,
) -> Row:
    """The row. `photographs`: by source, those of every one. Raises UserError where a start would refuse the run."""
    stages, told = missing(config, root), dict[str, tuple[float, str]]()
    if not stages:
        return Row("estimate", "ok", "nothing to build")
    for place in filter(None, (asked.rates, root)):  # the run's own rates count more than another's
        found = recorded_seconds(
            runs.Run(storage.absolute(place)), stages, counted(config, photographs), config.compute.num_workers
        )
        told |= {name: (seconds, f"of {place}") for name, seconds in found.items()}
    measured, start = measure(config, photographs, stages)
    guess = Estimator(config, photographs, measured, Machines(nodes, start))
    estimates, started = list[Estimate](), not guess.keeps_workers
    for stage in stages:
        seconds, size = guess.of(stage)
        if not started and stage.name in measured.networks:
            started, seconds = True, seconds + start  # the workers of all trainings
        seconds, rate = told.get(stage.name, (seconds, f"measured on {measured.where}"))
        estimates.append(Estimate(stage.name, seconds, size, rate))
    left_out = sorted(scores_of(config, stages) - set(measured.metric_seconds))
    hours = sum(each.seconds for each in estimates) / 3600
    dollars = price(hours, nodes, asked)
    text = as_text(estimates) + (f"; without {', '.join(left_out)}, which nobody timed" if left_out else "")
    if dollars:
        text += f"; {dollars[0]:.2f} dollars for {dollars[1]}"
    numbers = {
        "seconds": hours * 3600,
        "bytes": sum(each.size for each in estimates),
        "dollars": dollars[0] if dollars else None,
        "stages": [dataclasses.asdict(each) for each in estimates],
    }
    return Row("estimate", "ok", text, numbers=numbers)


def as_text(estimates: Sequence[Estimate]) -> str:
    """All of it, the stages that take longest, and whose rates they are."""
    longest = sorted(estimates, key=lambda each: -each.seconds)[:LONGEST]
    named = ", ".join(f"{each.stage} {duration(each.seconds)}" for each in longest)
    rates_used: dict[str, list[str]] = {}
    for each in estimates:
        rates_used.setdefault(each.rate, []).append(each.stage)
    said = (rate if len(rates_used) == 1 else f"{rate} ({', '.join(names)})" for rate, names in rates_used.items())
    return (
        f"{len(estimates)} stages to build; about {duration(sum(each.seconds for each in estimates))} and "
        f"{sum(each.size for each in estimates) / 1e9:.3g} GB ({named}) at rates {'; '.join(said)}"
    )


def duration(seconds: float) -> str:
    """In the unit that reads best."""
    for unit, name in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 1.5 * unit:
            return f"{seconds / unit:.1f} {name}"
    return f"{seconds:.0f} s"


def price(hours: float, nodes: Sequence[Node], asked: Asked) -> tuple[float, str] | None:
    """Dollars of all present nodes for that long, and for what: they are paid for while they stand, busy or not."""
    cpus, gpus = sum(each.cpus for each in nodes), sum(each.gpus for each in nodes)
    priced = [(cpus, "CPU", asked.price_per_core_hour), (gpus, "GPU", asked.price_per_gpu_hour)]
    given = [(count, name, price) for count, name, price in priced if price is not None]
    if not given:
        return None
    total = hours * sum(count * price for count, _, price in given)
    return total, " and ".join(f"{count:g} {name}" for count, name, _ in given)
