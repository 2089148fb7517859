"""Statistics of a rank dataset: which method wins, by how much, and the upper bounds of ranking (Eq. 10).

Only keys and scores are read, a few bytes a location; the patches of an example are read with its row group.
"""

import concurrent.futures
import dataclasses
import functools
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ranksr import storage
from ranksr.config import RankerConfig
from ranksr.data import labels, parts
from ranksr.errors import UserError
from ranksr.metrics import made_of
from ranksr.runs import RUN_FILE, Run, Stage

KEYS = ["image_id", "y", "x", "split"]
NUM_BINS = 24
NUM_FLIPS = 6
READERS = 8
"""Files read side by side: on S3 each waits for the network."""


@dataclasses.dataclass(frozen=True)
class Scores:
    """A rank dataset without its patches: L locations of M methods, in the order of image_id, y and x."""

    stage: Stage
    ranker: RankerConfig
    files: tuple[str, ...]
    starts: np.ndarray
    """(files + 1,) number of the first location of each file."""
    keys: pa.Table
    """image_id, y, x, split of each location."""
    methods: tuple[str, ...]
    """Methods in the stored order."""
    raw: dict[str, np.ndarray]
    """(L, M) by stored metric, in its own direction; NaN where a patch has no score."""
    values: np.ndarray
    """(L, M) label metric, lower is better."""
    seen: dict[str, Any]
    """`images` looked at, `rejected` among them, `counts` of locations by filter."""

    def columns(self, names: tuple[str, ...]) -> list[int]:
        return [self.methods.index(name) for name in names]


@dataclasses.dataclass(frozen=True)
class Bounds:
    """Eq. 10 and Figure 3 of the paper, over the locations where each of some methods has a score."""

    num_locations: int
    means: dict[str, float | None]
    best: str | None
    """The method with the lowest mean."""
    ub_mc: float | None
    """Model classification: one fixed method everywhere, the best."""
    ub_mr: float | None
    """Metric rank: the better method at each location."""


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two methods against each other, by the label metric."""

    first: str
    second: str
    first_wins: int
    second_wins: int
    ties: int
    unscored: int
    """Locations where one of the two has no score."""
    mean_gap: float | None
    """Mean absolute difference."""
    median_gap: float | None
    bounds: Bounds


@dataclasses.dataclass(frozen=True)
class Split:
    num_locations: int
    num_images: int
    means: dict[str, float | None]
    """Method to its mean over its own scored locations."""
    unscored: dict[str, int]
    pairs: list[Pair]
    bounds: list[Bounds]
    """Bounds of the methods that the Ranker compares; and of all but `hr`, where those differ."""
    histograms: dict[str, dict[str, list[int]]]
    """Metric to method to locations in each bin of `Statistics.edges`."""


@dataclasses.dataclass(frozen=True)
class Flip:
    """A location where two methods stand in the order opposite to that of their means."""

    image_id: str
    y: int
    x: int
    split: str
    file: str
    row: int
    """Inside the file."""
    usual: str
    """The method that is better on average."""
    winner: str
    """The one that is better here."""
    scores: dict[str, float | None]
    """Label metric of every method."""
    pngs: dict[str, bytes]
    """The patches of `usual`, `winner` and `hr`; empty where they were not asked for."""


@dataclasses.dataclass(frozen=True)
class Statistics:
    metric: str
    """The label metric; its values are turned so that lower is better (Ma: 10 - Ma)."""
    methods: tuple[str, ...]
    compared: tuple[str, ...]
    """The methods that the Ranker compares."""
    done: bool
    """False: only the parts that are written so far."""
    num_images: int
    num_rejected: int
    counts: dict[str, int]
    edges: dict[str, list[float]]
    """Metric to the edges of its bins; scores beyond the outer edges are counted in the outer bins."""
    splits: dict[str, Split]
    """`train`, `val` and `all`."""
    flips: list[Flip]


def open_stage(root: str, ranker: str | None = None) -> tuple[Stage, RankerConfig]:
    """The rank dataset of a Ranker of a run, and the Ranker. Raises UserError where one is missing.

    `ranker`: its name; None: the only one.
    """
    run = Run(storage.absolute(root))
    parent = run.root.rpartition("/ablation/")[0]
    if parent and storage.exists(Run(parent).path(RUN_FILE)) and not storage.exists(run.path(RUN_FILE)):
        raise UserError(f"{run.root} is a trial that shares the rank dataset of its run: give {parent}")
    config = run.config()
    name = ranker or next(iter(config.rankers), "")
    if name not in config.rankers or (ranker is None and len(config.rankers) > 1):
        wrong = f"no Ranker {ranker}" if ranker else f"{len(config.rankers) or 'no'} Rankers"
        raise UserError(f"{run.root} has {wrong}: name one of {', '.join(config.rankers) or 'another run'}")
    stage = run.recorded(config.learns_from(name))
    if stage is None:
        folder = config.learns_from(name)
        raise UserError(f"{run.root} has no {folder}/stage.json: give the folder that --run named, e.g. runs/demo")
    return stage, config.rankers[name]


def read_scores(stage: Stage, ranker: RankerConfig) -> Scores:
    """Keys and scores of all parts that are there. Raises UserError where there is none, or not what is compared."""
    files = storage.list_tables(stage.folder)
    if not files:
        raise UserError(f"{stage.folder} holds no part yet ({stage.state}): look again when the first is written")
    schema = storage.read_parquet_footer(stage.path(files[0])).schema.to_arrow_schema()
    names = [field.name for field in schema if field.type == pa.list_(pa.float64())]
    read = functools.partial(storage.read_table, columns=[*KEYS, *names])
    with concurrent.futures.ThreadPoolExecutor(READERS) as pool:
        tables = list(pool.map(read, [stage.path(name) for name in files]))
    in_order = sorted(zip(files, tables, strict=True), key=lambda each: each[1]["image_id"].to_pylist()[:1])
    files, tables = [name for name, _ in in_order], [part for _, part in in_order]
    table = pa.concat_tables(tables)
    starts = np.cumsum([0, *map(len, tables)])
    methods = ranker.methods
    if len(table):  # one stage, one list of methods: the first row's
        filled = files[int(np.searchsorted(starts, 0, side="right")) - 1]
        methods = tuple(storage.read_table(stage.path(filled), ["methods"])["methods"][0].as_py())
    _require(ranker, methods, names, stage.folder)
    raw = {name: labels.raw_values(table, name, len(methods)) for name in names}
    values = labels.label_values(ranker.metric, raw)
    seen = stage.results if stage.done else parts.add_up([parts.read_summary(part.schema.metadata) for part in tables])
    return Scores(stage, ranker, tuple(files), starts, table.select(KEYS), methods, raw, values, seen)


def _require(ranker: RankerConfig, methods: tuple[str, ...], names: list[str], folder: str) -> None:
    if strange := [name for name in ranker.methods if name not in methods]:
        raise UserError(f"ranker.methods names {', '.join(strange)}; {folder} holds {', '.join(methods)}: use those")
    if strange := [name for name in made_of(ranker.metric) if name not in names]:
        raise UserError(
            f"ranker.metric={ranker.metric} needs {', '.join(strange)}; {folder} holds {', '.join(names)}: use those"
        )


def summarise(scores: Scores, with_patches: bool = False) -> Statistics:
    """The statistics that `ranksr dataset show` and the report print."""
    shown = {**scores.raw, "pi": scores.values} if scores.ranker.metric == "pi" else scores.raw
    edges = {name: bin_edges(values) for name, values in shown.items() if np.isfinite(values).any()}
    in_split = {name: pc.equal(scores.keys["split"], name).to_numpy() for name in ("train", "val")}
    in_split["all"] = np.ones(len(scores.values), bool)
    return Statistics(
        metric=scores.ranker.metric,
        methods=scores.methods,
        compared=scores.ranker.methods,
        done=scores.stage.done,
        num_images=scores.seen["images"],
        num_rejected=scores.seen["rejected"],
        counts=scores.seen["counts"],
        edges={name: found.tolist() for name, found in edges.items()},
        splits={name: _split(scores, shown, edges, mask) for name, mask in in_split.items()},
        flips=[_with_patches(scores, flip) if with_patches else flip for flip in find_flips(scores)],
    )


def _split(scores: Scores, shown: dict[str, np.ndarray], edges: dict[str, np.ndarray], mask: np.ndarray) -> Split:
    methods, values = scores.methods, scores.values[mask]
    generated = tuple(name for name in methods if name != "hr")
    groups = [scores.ranker.methods] + [generated] * (set(generated) != set(scores.ranker.methods))
    return Split(
        num_locations=len(values),
        num_images=pc.count_distinct(scores.keys["image_id"].filter(pa.array(mask))).as_py(),
        means={name: _mean(values[:, i]) for i, name in enumerate(methods)},
        unscored={name: int(np.isnan(values[:, i]).sum()) for i, name in enumerate(methods)},
        pairs=[_pair(values, methods, pair) for pair in itertools.combinations(range(len(methods)), 2)],
        bounds=[bounds(values[:, scores.columns(group)], group) for group in groups],
        histograms={
            metric: {name: histogram(shown[metric][mask, i], bins) for i, name in enumerate(methods)}
            for metric, bins in edges.items()
        },
    )


def _pair(values: np.ndarray, methods: tuple[str, ...], pair: tuple[int, int]) -> Pair:
    first, second = pair
    gaps = values[:, first] - values[:, second]
    scored = gaps[~np.isnan(gaps)]
    return Pair(
        first=methods[first],
        second=methods[second],
        first_wins=int((scored < 0).sum()),
        second_wins=int((scored > 0).sum()),
        ties=int((scored == 0).sum()),
        unscored=len(gaps) - len(scored),
        mean_gap=_mean(np.abs(scored)),
        median_gap=float(np.median(np.abs(scored))) if len(scored) else None,
        bounds=bounds(values[:, pair], (methods[first], methods[second])),
    )


def bounds(values: np.ndarray, methods: tuple[str, ...]) -> Bounds:
    """Eq. 10 for (L, M) scores of which lower is better; a location without every score does not count."""
    whole = values[~np.isnan(values).any(axis=1)]
    if not len(whole):
        return Bounds(0, dict.fromkeys(methods), None, None, None)
    means = whole.mean(axis=0)
    return Bounds(
        num_locations=len(whole),
        means=dict(zip(methods, means.tolist(), strict=True)),
        best=methods[int(means.argmin())],
        ub_mc=float(means.min()),
        ub_mr=float(whole.min(axis=1).mean()),
    )


def find_flips(scores: Scores, most: int = NUM_FLIPS) -> list[Flip]:
    """Locations of different images where two compared methods stand the other way round, the largest gaps first."""
    columns = scores.columns(scores.ranker.methods)
    means = {column: mean for column in columns if (mean := _mean(scores.values[:, column])) is not None}
    pairs = [(a, b) if means[a] < means[b] else (b, a) for a, b in itertools.combinations(means, 2)]
    largest, which = np.zeros(len(scores.values)), np.zeros(len(scores.values), int)
    for number, (usual, other) in enumerate(pairs):
        gap = scores.values[:, usual] - scores.values[:, other]
        larger = gap > largest  # False for NaN
        largest[larger], which[larger] = gap[larger], number
    flipped = np.flatnonzero(largest)
    seen: set[str] = set()
    found = []
    for location in flipped[np.argsort(-largest[flipped], kind="stable")].tolist():
        image_id = scores.keys["image_id"][location].as_py()
        if image_id not in seen:
            seen.add(image_id)
            usual, winner = pairs[which[location]]
            found.append(_flip(scores, location, scores.methods[usual], scores.methods[winner]))
        if len(found) == most:
            break
    return found


def _flip(scores: Scores, location: int, usual: str, winner: str) -> Flip:
    file = int(np.searchsorted(scores.starts, location, side="right")) - 1
    values = [None if np.isnan(value) else value for value in scores.values[location].tolist()]
    (key,) = scores.keys.slice(location, 1).to_pylist()
    return Flip(
        **key,
        file=scores.files[file],
        row=location - int(scores.starts[file]),
        usual=usual,
        winner=winner,
        scores=dict(zip(scores.methods, values, strict=True)),
        pngs={},
    )


def _with_patches(scores: Scores, flip: Flip) -> Flip:
    for first, patches in row_groups(scores.stage.path(flip.file), ["pngs"], only_row=flip.row):
        pngs = patches["pngs"][flip.row - first]
        names = dict.fromkeys([flip.usual, flip.winner, "hr"])
        wanted = {name: scores.methods.index(name) for name in names if name in scores.methods}
        flip = dataclasses.replace(flip, pngs={name: pngs[column].as_py() for name, column in wanted.items()})
    return flip


def row_groups(path: str, columns: list[str], only_row: int | None = None) -> Iterator[tuple[int, pa.Table]]:
    """(number of its first row, the row group) of one Parquet file, one at a time; or only the one with `only_row`."""
    with storage.open_parquet(path) as file:
        first = 0
        for group in range(file.num_row_groups):
            num_rows = file.metadata.row_group(group).num_rows
            if only_row is None or first <= only_row < first + num_rows:
                yield first, file.read_row_group(group, columns)
            first += num_rows


def bin_edges(values: np.ndarray) -> np.ndarray:
    """Edges of equal bins between the 1st and 99th percentile: a few wild scores must not flatten the rest."""
    low, high = np.percentile(values[np.isfinite(values)], (1, 99))
    return np.linspace(low, high if high > low else low + 1, NUM_BINS + 1)


def histogram(values: np.ndarray, edges: np.ndarray) -> list[int]:
    return np.histogram(np.clip(values[~np.isnan(values)], edges[0], edges[-1]), edges)[0].tolist()


def _mean(values: np.ndarray) -> float | None:
    """Mean of the values that are not NaN; None where there is none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None
