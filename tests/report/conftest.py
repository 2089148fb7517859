"""A small finished run, made up: two test sets with pictures, curves, an ablation; and ablations on disk."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ranksr import images, storage
from ranksr.config import Config
from ranksr.report import Story, read_ablations
from ranksr.report.ablation.records import Ablation
from ranksr.train import pictures

METHODS = ("bicubic", "srgan", "ranksrgan", "hr")
TEXTS = ("method", "test_set", "image", "metric")
SCHEMA = pa.schema([*((name, pa.string()) for name in TEXTS), ("value", pa.float64()), ("reason", pa.string())])
IMAGES = {"Set14": ("baboon", "zebra"), "Mine": ("street",)}


def make_config(**changes: Any) -> Config:
    train = {"steps": 20, "batch_size": 2, "learning_rate": 1e-4, "beta2": 0.999, "validate_every_steps": 10}
    gan = {"generator": {"arch": "srresnet"}, "hr_patch_px": 96, "train": train}
    values = {
        "name": "trial",
        "seed": 0,
        "data": {"hr": "photos", "val_fraction": 0.1},
        "test_sets": [{"name": name, "hr": name} for name in IMAGES],
        "scoring": {"niqe_model": "fit"},
        "validation": {"num_patches": 2},
        "perceptual": {"weights": "random", "criterion": "mse"},
        "rank_content_loss": {"reduction": "mean", "ranker_bn": "running"},
        "methods": {
            "srgan": gan | {"weights": {"perceptual": 1, "adversarial": 0.005}},
            "ranksrgan": gan | {"weights": {"perceptual": 1, "adversarial": 0.005, "rank_content": 0.03}},
        },
        "rank_dataset": {"methods": ["bicubic", "srgan"], "patch_px": 96, "stride_px": 96},
        "ranker": {"metric": "niqe", "methods": ["bicubic", "srgan"], "target": "rank", "train": train},
        "evaluation": {"methods": METHODS},
    }
    return Config.model_validate(values | changes)


def make_scores() -> pa.Table:
    """NIQE for all methods, PSNR for all but hr; every value differs."""
    rows = []
    for test_set, names in IMAGES.items():
        for image in names:
            for method in METHODS:
                for metric in ("niqe", "psnr") if method != "hr" else ("niqe",):
                    value = len(rows) * 0.37 + (3 if metric == "niqe" else 25)
                    rows.append((method, test_set, image, metric, value, None))
    return pa.Table.from_pylist([dict(zip(SCHEMA.names, row, strict=True)) for row in rows], SCHEMA)


def with_score(table: pa.Table, where: dict[str, str], value: float, reason: str | None = None) -> pa.Table:
    """The table with the value of the one matching row replaced."""
    rows = table.to_pylist()
    (row,) = [row for row in rows if all(row[key] == wanted for key, wanted in where.items())]
    row.update(value=value, reason=reason)
    return pa.Table.from_pylist(rows, SCHEMA)


def photograph(seed: int, height: int = 120, width: int = 160) -> np.ndarray:
    """Smooth, with fine texture in the square of 48 px at y 64, x 32. uint8 HWC RGB."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(60, 180, width)[None, :, None] * np.ones((height, 1, 3))
    ramp[64:112, 32:80] += rng.choice([-40, 40], (12, 12, 3)).repeat(4, axis=0).repeat(4, axis=1)
    return ramp.astype(np.uint8)


def make_curves() -> dict[str, list[dict[str, Any]]]:
    steps = range(10, 210, 10)
    train = [{"step": step, "split": "train", "perceptual": 1 / step, "d_real": 0.6, "d_fake": 0.4} for step in steps]
    val = [{"step": step, "split": "val", "niqe": 9 - step / 50, "psnr": 20 + step / 50} for step in steps]
    ranker = [
        {"step": 10, "split": "train", "margin_ranking": 0.4, "pair_error": 0.5, "learning_rate": 1e-3},
        {"step": 10, "split": "val", "srocc": 0.7, "pair_accuracy": math.nan},
    ]
    return {"srgan": train + val, "ranker": ranker, "ranksrgan": train + val, "empty": []}


PIXEL = "methods.ranksrgan.weights.pixel"


def make_entry(trial: str, seed: int = 0, pixel: float = 0, **changes: Any) -> dict[str, Any]:
    """An entry of results.json: a trial of another pixel weight, done."""
    state = {"state": "done", "error": None, "step": 20, "steps": 20, "validation": {"niqe": 8.0, "psnr": 25.0}}
    stages = {"ranker": "ranker", "ranksrgan": f"ablation/stages/ranksrgan-{trial}-{seed}"}
    return {
        "trial": trial, "seed": seed, "overrides": [f"{PIXEL}={pixel}", f"seed={seed}"], "settings": {PIXEL: pixel},
        **state, "stages": stages, "ranker": None, "seconds": 31.0, **changes,
    }  # fmt: skip


def keep_pictures(folder: str, *steps: int) -> None:
    """What a training in `folder` keeps of its validations at `steps`: two images, lighter from step to step."""
    for step in steps:
        kept = {}
        for seed in (0, 1):
            hr = photograph(seed)
            kept[f"photo_{seed}_0_0"] = pictures.views(images.downscale(hr), np.clip(hr, step // 2, 255), hr)
        pictures.write(folder, step, kept)


Key = tuple[str, int, str, str]
"""Trial, seed, test set, metric."""


def write_ablation(
    root: str,
    entries: list[dict[str, Any]],
    scores: dict[Key, dict[str, float | None]],
    curves: dict[str, list[dict[str, Any]]] | None = None,
    **study: Any,
) -> None:
    """<root>/ablation/<name>: `scores` by image, `curves` by folder of the stage."""
    about = {"name": "loss", "about": "Table 7", "method": "ranksrgan", "base": entries[0]["trial"], "table": 7}
    study = {**about, "varied": [PIXEL], "search": None, "trials": entries, **study}
    folder = storage.join(root, "ablation", study["name"])
    storage.write_json(storage.join(folder, "results.json"), study)
    rows = [
        {"trial": trial, "seed": seed, "test_set": test_set, "image": image, "metric": metric, "value": value}
        for (trial, seed, test_set, metric), images_of in scores.items()
        for image, value in images_of.items()
    ]
    types = {name: pa.string() for name in ("trial", "test_set", "image", "metric")}
    schema = pa.schema({**types, "seed": pa.int64(), "value": pa.float64()})
    storage.write_table(storage.join(folder, "results.parquet"), pa.Table.from_pylist(rows, schema))
    for stage, lines in (curves or {}).items():
        storage.write_jsonl(storage.join(root, stage, "metrics.jsonl"), lines)


@pytest.fixture(scope="session")
def story(tmp_path_factory) -> Story:
    """Made once; a test that changes its pictures must copy them first."""
    pictures = str(tmp_path_factory.mktemp("evaluation"))
    for test_set, names in IMAGES.items():
        for seed, image in enumerate(names):
            hr = photograph(seed)
            lr = images.downscale(hr)
            for method in (*METHODS, "lr"):
                pixels = {"hr": hr, "lr": lr}.get(method, images.upscale_bicubic(lr))
                path = storage.join(pictures, test_set, method, f"{image}.png")
                storage.write_bytes(path, images.encode_png(pixels))
    stage = {"name": "srgan", "folder": "runs/x/srgan", "fingerprint": "0a1b2c", "seconds": 125.0}
    run = str(tmp_path_factory.mktemp("run"))
    scores = {("plain", 0, "Set14", "niqe"): {"zebra": 3.25}, ("plain", 0, "Set14", "psnr"): {"zebra": 26.125}}
    write_ablation(run, [make_entry("plain")], scores)
    return Story(
        config=make_config(),
        scores=make_scores(),
        images=pictures,
        curves=make_curves(),
        stages=[stage | {"results": {"niqe": 4.56789, "images": {"Set14": 2}}}],
        remarks=["NIQE's model was fitted here: values are not comparable with published ones."],
        ablations=read_ablations(run),
        run="runs/demo",
        command="python jobs/full_pipeline.py configs/demo.yaml --run runs/demo",
    )


@pytest.fixture
def ranker_scores() -> pa.Table:
    """Three locations of two photographs: one in the right order, one in the wrong one, one without a score."""
    places = [("one", 0), ("one", 8), ("two", 0)]
    values = [[6.0, 2.0], [4.0, 3.0], [math.nan, 5.0]]
    scores = [[1.0, 0.2], [0.1, 0.5], [0.3, 0.4]]
    rows = [
        {"image_id": image, "y": 0, "x": x, "methods": ["bicubic", "srgan"], "values": value, "scores": score}
        for (image, x), value, score in zip(places, values, scores, strict=True)
    ]
    return pa.Table.from_pylist(rows)


@pytest.fixture(name="make_config")
def _make_config() -> Callable[..., Config]:
    return make_config


@pytest.fixture(name="make_entry")
def _make_entry() -> Callable[..., dict[str, Any]]:
    return make_entry


@pytest.fixture(name="keep_pictures")
def _keep_pictures() -> Callable[..., None]:
    return keep_pictures


@pytest.fixture(name="write_ablation")
def _write_ablation() -> Callable[..., None]:
    return write_ablation


@pytest.fixture
def make_ablation(tmp_path) -> Callable[..., Ablation]:
    """What is read of an ablation that was written as `write_ablation` does."""

    def make(*arguments: Any, **study: Any) -> Ablation:
        write_ablation(str(tmp_path / "run"), *arguments, **study)
        return read_ablations(str(tmp_path / "run"))[-1]

    return make


@pytest.fixture(name="with_score")
def _with_score() -> Callable[..., pa.Table]:
    return with_score


@pytest.fixture
def changed(story) -> Callable[..., Story]:
    """The story with some fields replaced."""
    return lambda **fields: dataclasses.replace(story, **fields)
