"""`ranksr export`: a network as safetensors and ONNX, with a model card, for other programs."""

import dataclasses
import datetime
import hashlib
import io
import json
import logging
import pathlib
import tempfile
import warnings
from collections.abc import Callable
from typing import Any

import safetensors.torch
import torch
import yaml

from ranksr import SCALE, __version__, checkpoints, storage, weights
from ranksr.config import FSRCNN, Config, Generator, RRDBNet, SRResNet
from ranksr.config.schema import snapshot
from ranksr.errors import UserError
from ranksr.metrics.learned import LEAST_PX
from ranksr.report import intervals, tables
from ranksr.report.ablation import summary
from ranksr.runs import RUN_FILE, SCORES
from ranksr.use.network import Origin, about, find

log = logging.getLogger(__name__)

OPSET = 18
UNSTATED = "unstated"
"""License of weights whose owner has not said one."""


@dataclasses.dataclass(frozen=True)
class Release:
    """A network on its way into other programs."""

    origin: Origin
    network: torch.nn.Module
    tensors: dict[str, torch.Tensor]
    """Under the names of BasicSR, where that has the network."""
    architecture: str
    sizes: dict[str, Any]
    opens: str
    """The programs that open the safetensors file, as a sentence."""
    is_ranker: bool
    license: str

    @property
    def name(self) -> str:
        return f"{self.origin.run.root.rsplit('/', 1)[-1]}-{self.origin.name}" if self.origin.run else self.origin.name


def export(model: str, out: str, license_name: str | None, pth: bool, fp16: bool) -> list[str]:
    """Write a network into the folder `out`, local or s3://; returns the paths, the card last.

    `model` as `network.find` takes it, `RUN:ranker` too. `license_name`: of the weights; None: unstated. `pth`: a .pth
    file as well. `fp16`: half precision in the ONNX file. Raises UserError.
    """
    out = storage.absolute(out)
    storage.probe(out, "output folder")
    release = _release(find(model), license_name or UNSTATED)
    files = {"model.safetensors": _safetensors(release)}
    if pth:
        buffer = io.BytesIO()
        torch.save({"params": release.tensors}, buffer)
        files["model.pth"] = buffer.getvalue()
    files["model.onnx"] = to_onnx(release.network, release.is_ranker, fp16)
    if not release.is_ranker:
        files["openmodeldb.json"] = (json.dumps(_openmodeldb(release, files), indent=2) + "\n").encode()
    files["README.md"] = _card(release, files, fp16).encode()
    try:
        for name, data in files.items():
            storage.write_bytes(storage.join(out, name), data)
    except OSError as error:
        raise UserError(
            f"cannot write {out} ({error.strerror or error}): make room, or choose another --out"
        ) from error
    return [storage.join(out, name) for name in files]


def _release(origin: Origin, license_name: str) -> Release:
    if origin.is_ranker:
        ranker = checkpoints.load_ranker(origin.weights)
        assert origin.config is not None
        assert origin.method is not None
        sizes = origin.config.rankers[origin.method].model_dump(include={"features", "hidden"})
        opens = "Only ranksr opens the safetensors file; every ONNX runtime opens model.onnx."
        return Release(origin, ranker, ranker.state_dict(), "Ranker", sizes, opens, True, license_name)
    network = checkpoints.load_generator(origin.weights)
    config = weights.generator_config(network.state_dict(), origin.weights)
    architecture, rename, opens = _published(config)
    tensors = {rename(key): value.contiguous() for key, value in network.state_dict().items()}
    sizes = config.model_dump(exclude={"arch"})
    return Release(origin, network, tensors, architecture, sizes, opens, False, license_name)


def _published(config: Generator) -> tuple[str, Callable[[str], str], str]:
    """The architecture's name elsewhere, key names to those of BasicSR, and the programs that open the file."""
    onnx = "chaiNNer and every ONNX runtime open model.onnx."
    match config:
        case RRDBNet(growth=32):
            return "ESRGAN", str, f"chaiNNer, spandrel and BasicSR open the safetensors file; {onnx}"
        case RRDBNet():
            return "ESRGAN", str, f"BasicSR opens the safetensors file, spandrel a growth of 32 alone; {onnx}"
        case SRResNet(skip="bilinear"):
            return (
                "MSRResNet",
                lambda key: key.replace("conv_up", "upconv"),
                f"BasicSR opens the safetensors file; {onnx}",
            )
        case SRResNet():
            return "SRResNet", str, f"ranksr opens the safetensors file; {onnx}"
        case FSRCNN():
            return "FSRCNN", str, f"ranksr opens the safetensors file; {onnx}"
    raise AssertionError(config)


def _safetensors(release: Release) -> bytes:
    stage = release.origin.stage
    metadata = {
        "format": "pt",
        "architecture": release.architecture,
        "sizes": json.dumps(release.sizes),
        "scale": str(1 if release.is_ranker else SCALE),
        "license": release.license,
        "ranksr": __version__,
        **({"fingerprint": stage.fingerprint} if stage else {}),
        **({"validation": storage.to_json(about(release.origin).get("validation", {}))} if stage else {}),
    }
    return safetensors.torch.save(release.tensors, metadata)


def to_onnx(network: torch.nn.Module, is_ranker: bool, fp16: bool) -> bytes:
    """The network for ONNX runtimes; batch, height and width are free. Raises UserError without the extra `onnx`.

    Input `lr` (N, 3, H, W) RGB in [0, 1]; output `sr` (N, 3, 4H, 4W), not clipped. A Ranker: `image` to `score` (N,).
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"{error.name} is not installed: pip install 'ranksr[onnx]'") from error
    kind = torch.float16 if fp16 else torch.float32
    names = ("image", "score") if is_ranker else ("lr", "sr")
    least = {"min": LEAST_PX} if is_ranker else {}
    free = {
        0: torch.export.Dim("batch"),
        2: torch.export.Dim("height", **least),
        3: torch.export.Dim("width", **least),
    }
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own code
        path = pathlib.Path(folder) / "model.onnx"
        torch.onnx.export(
            network.to(kind).eval(),
            (torch.rand(2, 3, 64, 80, dtype=kind),),
            str(path),
            dynamo=True,
            opset_version=OPSET,
            input_names=[names[0]],
            output_names=[names[1]],
            dynamic_shapes=(free,),
            external_data=False,
            verbose=False,
        )
        network.float()
        return path.read_bytes()


def _card(release: Release, files: dict[str, bytes], fp16: bool) -> str:
    """README.md: a model card as model hubs read it."""
    origin = release.origin
    head: dict[str, Any] = {
        "license": release.license if release.license != UNSTATED else "other",
        "library_name": "ranksr",
        "pipeline_tag": "image-to-image",
        "tags": ["super-resolution", "x4", release.architecture],
    }
    if origin.config:
        head["datasets"] = [_photographs(origin.config)]
        head["metrics"] = list(origin.config.scoring.metrics)
    kind = "Ranker" if release.is_ranker else f"x4 {release.architecture}"
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n",
        f"# {release.name}\n",
        f"{kind} ({', '.join(f'{key} {value}' for key, value in release.sizes.items())}). License of the weights: "
        f"{release.license}.\n",
        "| file | bytes | SHA-256 |\n|---|---:|---|",
        *(f"| {name} | {len(data)} | {hashlib.sha256(data).hexdigest()} |" for name, data in files.items()),
        "",
        *(_training(release) if origin.config and origin.stage else []),
        *([] if release.is_ranker else _scores(origin)),
        _loading(release, fp16),
    ]
    return "\n".join(parts)


def _training(release: Release) -> list[str]:
    origin = release.origin
    assert origin.config is not None
    assert origin.stage is not None
    assert origin.run is not None
    config, stage = origin.config, origin.stage
    run = storage.read_json(origin.run.path(RUN_FILE))
    name = origin.method or ""
    method, learned, blend = config.method_of(name), config.rankers.get(name), config.blends.get(name)
    lines = ["## Training\n"]
    if method:
        steered = config.steered_by(snapshot(name)[0])
        given = {name: weight for name, weight in method.weights if weight and name != "rank_content"}
        alone = len(steered) == 1
        given |= {"rank_content" if alone else f"rank_content of {each}": weight for each, weight in steered.items()}
        terms = ", ".join(f"{name} {weight:g}" for name, weight in given.items())
        lines.append(f"- losses: {terms} (perceptual network: {config.perceptual.network})")
    elif learned:
        lines.append(f"- learned the order of {', '.join(learned.methods)} by {learned.metric}")
    elif blend:
        lines.append(f"- weights between those of {' and '.join(blend.methods)}, {blend.weight:g} of the second")
    trained = method or learned
    if trained:
        training = trained.train
        lines.append(
            f"- {training.steps} steps of batch {training.batch_size}, learning rate {training.learning_rate:g}, seed "
            f"{config.seed if training.seed is None else training.seed}"
        )
    lines += [
        f"- photographs: {_photographs(config)}",
        *(f"- input {key}: {value}" for key, value in stage.inputs.items()),
        f"- fingerprint {stage.fingerprint}, ranksr {run['versions']['ranksr']}, torch {run['versions']['torch']}, "
        f"commit {run['git_commit'] or 'unknown'}",
    ]
    fitted = [
        name for name, model in (("NIQE", config.scoring.niqe_model), ("Ma", config.scoring.ma_model)) if model == "fit"
    ]
    if fitted:
        lines.append(f"- the models of {' and '.join(fitted)} were fitted here: scores compare with no published ones")
    return [*lines, ""]


def _photographs(config: Config) -> str:
    """Name of the training photographs, without the place where they were."""
    return config.data.hr.rstrip("/").rsplit("/", 1)[-1]


def _scores(origin: Origin) -> list[str]:
    """Scores of the run's evaluation, means over images with their 95 % intervals."""
    evaluation = origin.run.recorded("evaluation") if origin.run else None
    if origin.config is None or evaluation is None or not evaluation.done:
        return []
    scores = storage.read_table(evaluation.path(SCORES)).to_pandas()
    values = scores.groupby(["test_set", "method", "metric"])["value"].agg(list).to_dict()
    methods = [name for name in origin.config.evaluation.methods if name in ("bicubic", "srgan", "hr", origin.method)]
    lines = [f"## Scores\n\nProfile {origin.config.scoring.profile}; means over images, ± 95 % over them.\n"]
    for test_set in (each.name for each in origin.config.test_sets):
        metrics = [name for name in origin.config.scoring.metrics if (test_set, origin.method, name) in values]
        columns = [tables.Column(test_set, name, has_paper=False, calibrated=False) for name in metrics]
        lines.append(f"| {test_set} | {' | '.join(column.label for column in columns)} |")
        lines.append(f"|---|{'---:|' * len(metrics)}")
        for method in methods:
            found = [intervals.interval(values.get((test_set, method, column.metric), [])) for column in columns]
            cells = [summary.Cell(column, value, None) for column, value in zip(columns, found, strict=True)]
            lines.append(f"| {method} | {' | '.join(cell.text for cell in cells)} |")
        lines.append("")
    return lines


def _loading(release: Release, fp16: bool) -> str:
    if release.is_ranker:
        return f"""## Use

{release.opens} Lower scores are better; images of 32 px and more.

```bash
ranksr score PHOTOGRAPHS --metrics ranker:RUN
```
"""
    kind = "np.float16" if fp16 else "np.float32"
    return f"""## Use

{release.opens}

```bash
ranksr upscale model.safetensors PHOTOGRAPHS --out DIR
```

```python
from ranksr import load_model

sr = load_model("model.safetensors")(image)     # uint8 HWC RGB, 4 times as high and wide
```

```python
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
lr = image.transpose(2, 0, 1)[None].astype({kind}) / 255
(sr,) = session.run(None, {{"lr": lr}})             # (1, 3, 4H, 4W), clip to [0, 1]
```
"""


def _openmodeldb(release: Release, files: dict[str, bytes]) -> dict[str, Any]:
    """An entry for OpenModelDB, without the addresses, which its owner adds."""
    origin = release.origin
    method = origin.config.method_of(origin.method or "") if origin.config else None
    kinds = {
        "model.safetensors": ("pytorch", "safetensors"),
        "model.pth": ("pytorch", "pth"),
        "model.onnx": ("onnx", "onnx"),
    }
    entry: dict[str, Any] = {
        "name": release.name,
        "author": [],
        "license": None if release.license == UNSTATED else release.license,
        "tags": ["general-upscaler", "photo"],
        "description": f"x4 {release.architecture} trained by ranksr {__version__}.",
        "date": datetime.date.today().isoformat(),
        "architecture": release.architecture.lower(),
        "size": [f"{value}{key[0]}" for key, value in release.sizes.items() if isinstance(value, int)],
        "scale": SCALE,
        "inputChannels": 3,
        "outputChannels": 3,
        "resources": [
            {
                "platform": platform,
                "type": kind,
                "size": len(files[name]),
                "sha256": hashlib.sha256(files[name]).hexdigest(),
                "urls": [],
            }
            for name, (platform, kind) in kinds.items()
            if name in files
        ],
    }
    if method and origin.config:
        entry |= {
            "trainingIterations": method.train.steps,
            "trainingBatchSize": method.train.batch_size,
            "trainingHRSize": method.hr_patch_px,
            "dataset": _photographs(origin.config),
        }
    return entry
