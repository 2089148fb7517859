"""`ranksr study make`: pictures of a run under names that tell nothing, and what is to be asked of them."""

import dataclasses
import hashlib
import math
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from ranksr import images, storage
from ranksr.config import Config, files
from ranksr.errors import UserError
from ranksr.metrics.engine import Judge
from ranksr.metrics.learned import RANKER
from ranksr.report import gallery
from ranksr.report.gallery import Shot, Source
from ranksr.runs import PICTURES as EVALUATED
from ranksr.runs import SCORES, Run, Stage
from ranksr.stages.calibration import MODEL_FILES
from ranksr.study.design import DESIGN, ITEMS, PICTURES, Design, Item, Items, Kind, Session

TRAP_BLUR_PX = 3.0
"""Standard deviation of the blur of a trap: nobody who looks prefers it."""
PRACTICE_BLURS_PX = (0.0, 1.0, 2.0, 4.0, 6.0, 8.0)
"""Of the versions of a practice item, whose order is plain."""


class View(NamedTuple):
    """The part of an image that is shown, and the enlarged square within it. HR pixels."""

    y: int
    x: int
    height: int
    width: int
    patch: tuple[int, int, int]


def make(run: str, out: str, design: Design) -> str:
    """Write a study of a finished run into a new folder; a text that says what it asks. Raises UserError."""
    folder = pathlib.Path(out)
    if storage.is_remote(out):
        raise UserError(f"{out} is not local: a study holds a database; give a folder of this machine")
    if folder.exists() and any(folder.iterdir() if folder.is_dir() else [folder]):
        raise UserError(f"{out} is there already and may hold answers: give a new or empty folder")
    stage = _evaluation(run)
    design = _with_test_set(design, Run(storage.absolute(run)).config())
    shots = _shots(stage, design)
    (folder / PICTURES).mkdir(parents=True, exist_ok=True)
    try:
        found = _write(run, str(folder), design, shots)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)  # half a study would be taken for a whole one
        raise
    votes = {session: len(found.of(session)) for session in ("pairs", "ranking") if found.of(session)}
    listed = ", ".join(f"{count} {'pairs' if session == 'pairs' else 'rankings'}" for session, count in votes.items())
    return f"{out}: {listed} of {len(shots)} images of {found.test_set}\nserve it: ranksr study serve {out}"


def _evaluation(run: str) -> Stage:
    stage = Run(storage.absolute(run)).recorded("evaluation")
    if stage is None or not stage.done:
        raise UserError(f"{run} has no pictures yet: finish it with `ranksr full_pipeline CONFIG --run {run}`")
    return stage


def _with_test_set(design: Design, config: Config) -> Design:
    known = [test_set.name for test_set in config.test_sets]
    if design.test_set is not None and design.test_set not in known:
        raise UserError(f"test_set={design.test_set} is no test set of the run; choose from {', '.join(known)}")
    return design.model_copy(update={"test_set": design.test_set or known[0]})


def _shots(stage: Stage, design: Design) -> list[Shot]:
    """The test images of which every method that is asked about has a picture."""
    methods = dict.fromkeys([*_asked(design), "hr"])
    source = Source(stage.path(EVALUATED), storage.read_table(stage.path(SCORES)).to_pandas(), {m: m for m in methods})
    found = [shot for shot in gallery.shots([source]) if shot.test_set == design.test_set]
    present = {label for shot in found for label in shot.files}
    if lacking := [method for method in methods if method not in present]:
        raise UserError(
            f"the run has no pictures of {', '.join(lacking)} on {design.test_set}: name methods of its evaluation "
            "(pairs.method, pairs.rivals, ranking.methods), or null for a session that is to be left out"
        )
    if unknown := design.patches.keys() - {shot.image for shot in found}:
        raise UserError(f"patches names {min(unknown)}, which is no image of {design.test_set}")
    return [shot for shot in found if methods.keys() <= shot.files.keys()]


def _asked(design: Design) -> list[str]:
    pairs = [design.pairs.method, *design.pairs.rivals] if design.pairs else []
    return list(dict.fromkeys([*pairs, *(design.ranking.methods if design.ranking else ())]))


def _write(run: str, folder: str, design: Design, shots: Sequence[Shot]) -> Items:
    judge, metrics = _scoring(Run(storage.absolute(run)))
    items: list[Item] = []
    scores: dict[str, dict[str, dict[str, float]]] = {}
    for shot in shots:
        pixels = {label: images.decode(storage.read_bytes(path)) for label, path in shot.files.items()}
        made, shown = _of_image(shot.image, pixels, design, folder)
        items += made
        scores[shot.image] = _scores(judge, metrics, shown)
    items += _obvious(shots, design, folder)
    found = Items(run=storage.absolute(run), test_set=str(design.test_set), items=tuple(items), scores=scores)
    storage.write_bytes(storage.join(folder, DESIGN), files.to_text(design.model_dump(mode="json")).encode())
    storage.write_json(storage.join(folder, ITEMS), dataclasses.asdict(found))  # the last: a study that has it is whole
    return found


def _of_image(
    image: str, pixels: Mapping[str, np.ndarray], design: Design, folder: str
) -> tuple[list[Item], dict[str, np.ndarray]]:
    """Its items, and what they show of each method."""
    view = view_of(pixels, _asked(design), design, image)
    shown = {method: _cut(pixels[method], view) for method in dict.fromkeys([*_asked(design), "hr"])}
    names = {method: _store(folder, picture, f"{image} {method}", design) for method, picture in shown.items()}
    items = []
    for rival in design.pairs.rivals if design.pairs else ():
        assert design.pairs is not None
        items.append(_item("pairs", "vote", image, {name: names[name] for name in (design.pairs.method, rival)}, view))
    if design.ranking:
        items.append(_item("ranking", "vote", image, {name: names[name] for name in design.ranking.methods}, view))
    return items, shown


def view_of(pixels: Mapping[str, np.ndarray], methods: Sequence[str], design: Design, image: str) -> View:
    """The patch where SR images by `methods` differ most, or the one that `design` gives, and what is shown around it.

    `pixels`: method to uint8 HWC RGB, all of one size.
    """
    height, width = pixels["hr"].shape[:2]
    side = min(design.patch_px, height, width)
    if given := design.patches.get(image):
        y, x = min(given.y, height - side), min(given.x, width - side)
    else:
        rivals = [method for method in methods if method != "hr"]
        y, x = _where_they_differ([images.luma(pixels[method]) for method in rivals], side)
    shown_height, shown_width = min(design.picture_px, height), min(design.picture_px, width)
    top = min(max(0, y + side // 2 - shown_height // 2), height - shown_height)
    left = min(max(0, x + side // 2 - shown_width // 2), width - shown_width)
    return View(top, left, shown_height, shown_width, (y - top, x - left, side))


def _where_they_differ(lumas: Sequence[np.ndarray], side: int) -> tuple[int, int]:
    """Corner (y, x) of the square with the largest sum of the range of luma over the versions."""
    stack = np.stack([luma.astype(np.float64) for luma in lumas])
    sums = cv2.integral(stack.max(axis=0) - stack.min(axis=0))
    total = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    y, x = np.unravel_index(int(total.argmax()), total.shape)
    return int(y), int(x)


def _cut(picture: np.ndarray, view: View) -> np.ndarray:
    return picture[view.y : view.y + view.height, view.x : view.x + view.width]


def _item(
    session: Session, kind: Kind, image: str, versions: dict[str, str], view: View, best: str | None = None
) -> Item:
    return Item(f"{session}:{kind}:{image}:{':'.join(versions)}", session, kind, image, versions, view.patch, best)


def _store(folder: str, picture: np.ndarray, about: str, design: Design) -> str:
    """Write a picture; its name, which says nothing of what it is."""
    png = images.encode_png(picture)
    name = hashlib.blake2b(png + f"{design.seed} {about}".encode(), digest_size=12).hexdigest() + ".png"
    storage.write_bytes(storage.join(folder, PICTURES, name), png)
    return name


def _obvious(shots: Sequence[Shot], design: Design, folder: str) -> list[Item]:
    """Traps and practice items: HR beside blurred copies of it."""
    pairs, ranking = design.pairs, design.ranking
    wanted: list[tuple[Session, Kind, int, int]] = []
    if pairs:
        wanted += [("pairs", "trap", pairs.traps, 2), ("pairs", "practice", pairs.practice, 2)]
    if ranking:
        wanted += [("ranking", "practice", ranking.practice, len(ranking.methods))]
    turn, items = 0, []
    for session, kind, count, num_versions in wanted:
        for number in range(count):
            shot = shots[turn % len(shots)]
            hr = images.decode(storage.read_bytes(shot.files["hr"]))
            turn += 1
            blurs = (0.0, TRAP_BLUR_PX) if kind == "trap" else PRACTICE_BLURS_PX[:num_versions]
            made = {f"blur_{blur:g}" if blur else "hr": _blurred(hr, blur) for blur in blurs}
            view = view_of({**made, "hr": hr}, list(made)[1:] * 2, design, shot.image)
            names = {
                name: _store(folder, _cut(picture, view), f"{kind} {number} {name}", design)
                for name, picture in made.items()
            }
            item = _item(session, kind, shot.image, names, view, "hr" if kind == "trap" else None)
            items.append(dataclasses.replace(item, id=f"{item.id}:{number}"))
    return items


def _blurred(picture: np.ndarray, blur_px: float) -> np.ndarray:
    return cv2.GaussianBlur(picture, (0, 0), blur_px) if blur_px else picture


def _scoring(run: Run) -> tuple[Judge, list[str]]:
    """The models by which the run was evaluated, and metrics to score what is shown by: the run's and its Rankers'."""
    config = run.config()
    scoring = config.scoring

    def resolved(metric: str, model: str) -> str:
        stage = run.recorded(f"calibration_{metric}") if model == "fit" else None
        return stage.path(MODEL_FILES[metric]) if stage else model

    judge = Judge(
        scoring.profile,
        resolved("niqe", scoring.niqe_model),
        resolved("ma", scoring.ma_model) if scoring.ma_model is not None else None,
    )
    done = [name for name in config.rankers if (stage := run.recorded(name)) is not None and stage.done]
    return judge, [*scoring.metrics, *(f"{RANKER}{run.root}:{name}" for name in done)]


def _scores(judge: Judge, metrics: Sequence[str], shown: Mapping[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Method to metric to score, of what is shown; what has no score is left out."""
    found = judge.score(list(shown.values()), metrics, [shown["hr"]] * len(shown))
    return {
        method: {_plain(name): score.value for name, score in scores.items() if math.isfinite(score.value)}
        for method, scores in zip(shown, found, strict=True)
    }


def _plain(metric: str) -> str:
    """A Ranker by its name alone: `ranker:NAME`."""
    return f"{RANKER}{metric.rpartition(':')[2]}" if metric.startswith(RANKER) else metric
