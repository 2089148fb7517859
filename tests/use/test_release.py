"""`ranksr export`: what is written opens elsewhere, and gives what the network gives here."""

import json
import pathlib
from typing import Any

import numpy as np
import pytest
import safetensors
import torch
import yaml

from ranksr import checkpoints, cli, load_model, pipeline, storage, weights
from ranksr.config import FSRCNN, Config, Generator, RRDBNet, SRResNet, load_config
from ranksr.models import build_generator, build_ranker
from ranksr.runs import Run

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of the exporter

GENERATORS = [
    SRResNet(arch="srresnet", features=8, blocks=1, skip="none"),
    SRResNet(arch="srresnet", features=8, blocks=1, skip="bilinear"),
    RRDBNet(arch="rrdbnet", features=8, blocks=1, growth=32),
    FSRCNN(arch="fsrcnn", features=8, shrink=4, blocks=1),
]


def save(path: pathlib.Path, config: Generator) -> torch.nn.Module:
    """Weights whose flat grey stays grey, as `require_sound` wants of a file made elsewhere."""
    torch.manual_seed(0)
    network = build_generator(config).eval()
    with torch.no_grad():
        for weight in network.parameters():
            weight.mul_(0.1)
        if (isinstance(config, SRResNet) and config.skip == "none") or isinstance(config, RRDBNet):
            network.conv_last.bias.fill_(0.5)
    checkpoints.save_generator(str(path), config, network.state_dict(), {})
    return network


@pytest.mark.parametrize("config", GENERATORS, ids=lambda config: f"{config.arch}-{getattr(config, 'skip', '')}")
def test_files_give_what_the_network_gives(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, config: Generator
) -> None:
    monkeypatch.setattr(weights, "require_sound", lambda *_: None)  # these are not trained
    network = save(tmp_path / "net.pt", config)
    assert cli.main(["export", str(tmp_path / "net.pt"), "--out", str(tmp_path / "out"), "--pth"]) == 0
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "model.onnx"))
    for shape in ((1, 3, 16, 16), (2, 3, 37, 52)):
        lr = torch.rand(*shape)
        (found,) = session.run(None, {"lr": lr.numpy()})
        with torch.inference_mode():
            assert np.abs(found - network(lr).numpy()).max() < 1e-4
    image = np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8)
    expected = load_model(str(tmp_path / "net.pt"))(image)
    for name in ("model.safetensors", "model.pth"):
        assert np.array_equal(load_model(str(tmp_path / "out" / name))(image), expected)
    with safetensors.safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        assert (file.metadata()["scale"], file.metadata()["license"]) == ("4", "unstated")
        assert json.loads(file.metadata()["sizes"])["features"] == 8


@pytest.mark.parametrize("side", [16, 64, 256])
def test_the_scale_is_found_by_shape_inference(tmp_path: pathlib.Path, side: int) -> None:
    """As chaiNNer finds it: the sizes of the input are set, and those of the output inferred."""
    save(tmp_path / "net.pt", GENERATORS[0])
    assert cli.main(["export", str(tmp_path / "net.pt"), "--out", str(tmp_path)]) == 0
    model = onnx.load(tmp_path / "model.onnx")
    for place, size in zip(model.graph.input[0].type.tensor_type.shape.dim, (1, 3, side, side), strict=True):
        place.Clear()
        place.dim_value = size
    del model.graph.value_info[:]
    for place in model.graph.output[0].type.tensor_type.shape.dim:
        place.Clear()
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    assert [place.dim_value for place in inferred.graph.output[0].type.tensor_type.shape.dim][2:] == [4 * side] * 2


def test_spandrel_opens_an_rrdb_network_of_growth_32(tmp_path: pathlib.Path) -> None:
    from ranksr.metrics.external import _import_torchvision

    _import_torchvision()  # of which spandrel's registry needs no compiled operator
    spandrel = pytest.importorskip("spandrel")
    network = save(tmp_path / "net.pt", RRDBNet(arch="rrdbnet", features=16, blocks=2, growth=32))
    assert cli.main(["export", str(tmp_path / "net.pt"), "--out", str(tmp_path)]) == 0
    opened = spandrel.ModelLoader(device="cpu").load_from_file(tmp_path / "model.safetensors")
    lr = torch.rand(1, 3, 24, 20)
    with torch.inference_mode():
        assert opened.scale == 4
        assert torch.allclose(opened(lr), network(lr).clamp(0, 1), atol=1e-5)


def test_half_precision_is_half_as_large_and_near(tmp_path: pathlib.Path) -> None:
    network = save(tmp_path / "net.pt", SRResNet(arch="srresnet", features=32, blocks=2, skip="bilinear"))
    for name, options in (("full", []), ("half", ["--fp16"])):
        assert cli.main(["export", str(tmp_path / "net.pt"), "--out", str(tmp_path / name), *options]) == 0
    sizes = {name: (tmp_path / name / "model.onnx").stat().st_size for name in ("full", "half")}
    assert sizes["half"] < 0.65 * sizes["full"]
    lr = torch.rand(1, 3, 20, 24)
    (found,) = onnxruntime.InferenceSession(str(tmp_path / "half" / "model.onnx")).run(None, {"lr": lr.half().numpy()})
    with torch.inference_mode():
        assert np.abs(found.astype(np.float32) - network(lr).numpy()).max() < 0.02


@pytest.fixture
def run(root: pathlib.Path, tiny: list[str], tmp_path: pathlib.Path) -> Run:
    """A run whose trainings are said to be done, with their weights and scores made up."""
    return finish(load_config(root / "configs" / "demo.yaml", tiny), tmp_path)


def finish(config: Config, tmp_path: pathlib.Path) -> Run:
    run = Run(str(tmp_path / "my run"))
    run.describe(config, [])
    torch.manual_seed(0)
    for stage in pipeline.plan(pipeline.Context(config, run, start_ray=lambda: None)):
        if generator := config.generator_of(stage.name):
            tensors = build_generator(generator).state_dict()
            checkpoints.save_generator(
                stage.path("weights.pt"),
                generator,
                tensors,
                {"step": 4, "validation": {"psnr": 25.0, "niqe": float("nan")}},
            )
        if stage.name == "ranker":
            ranker = build_ranker(config.ranker)
            checkpoints.save_ranker(stage.path("weights.pt"), config.ranker, ranker.state_dict(), {"step": 4})
        run.finish(stage, {"seconds": 1.0})
    return run


def write_scores(run: Run) -> None:
    import pyarrow as pa

    rows = [
        {"method": method, "test_set": "faces", "image": image, "metric": metric, "value": value + (image == "b")}
        for method, value in (("bicubic", 7.0), ("srgan", 6.0), ("ranksrgan", 5.0))
        for image in "ab"
        for metric in ("niqe", "psnr")
    ]
    storage.write_table(run.path("evaluation", "scores.parquet"), pa.Table.from_pylist(rows))


def test_the_card_tells_how_the_network_was_made(run: Run, tmp_path: pathlib.Path) -> None:
    write_scores(run)
    assert cli.main(["export", run.root, "--out", str(tmp_path / "out"), "--license", "cc-by-4.0"]) == 0
    card = (tmp_path / "out" / "README.md").read_text()
    head = yaml.safe_load(card.split("---\n")[1])
    assert (head["license"], head["library_name"], head["pipeline_tag"]) == ("cc-by-4.0", "ranksr", "image-to-image")
    stage = run.recorded("ranksrgan")
    assert stage is not None
    for text in (
        "# my run-ranksrgan", "adversarial 0.005, rank_content 0.03", "4 steps of batch 2", stage.fingerprint,
        f"input ranker: {stage.inputs['ranker']}", "the models of NIQE were fitted here", "License of the weights: cc-by-4.0",
        "| faces | NIQE ↓ | PSNR, dB ↑ |", "| bicubic | 7.50 ± 6.35 | 7.50 ± 6.35 |", "| ranksrgan | 5.50 ± 6.35 |",
    ):  # fmt: skip
        assert text in card, text
    assert str(tmp_path.parent) not in card  # no path of the machine that trained it
    entry = json.loads((tmp_path / "out" / "openmodeldb.json").read_text())
    assert (entry["scale"], entry["license"], entry["trainingIterations"]) == (4, "cc-by-4.0", 4)
    for resource in entry["resources"]:
        assert resource["size"] == (tmp_path / "out" / f"model.{resource['type']}").stat().st_size
    with safetensors.safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        assert file.metadata()["fingerprint"] == stage.fingerprint
        assert json.loads(file.metadata()["validation"]) == {"psnr": 25.0, "niqe": None}


def test_a_blend_and_an_earlier_network_are_named_as_methods_are(
    root: pathlib.Path, tiny: list[str], tmp_path: pathlib.Path, capsys: Any
) -> None:
    changes = ["blends.between={methods: [srresnet, srgan], weight: 0.25}", "evaluation.methods=[between, srgan@2]"]
    run = finish(load_config(root / "configs" / "demo.yaml", [*tiny, *changes]), tmp_path)
    write_scores(run)
    cards = {}
    for name in ("between", "srgan@2"):
        assert load_model(f"{run.root}:{name}", device="cpu").origin.name == name
        assert cli.main(["export", f"{run.root}:{name}", "--out", str(tmp_path / name)]) == 0
        cards[name] = (tmp_path / name / "README.md").read_text()
    assert "- weights between those of srresnet and srgan, 0.25 of the second\n- photographs" in cards["between"]
    assert "adversarial 0.005" in cards["srgan@2"]
    assert "- 2 steps of batch 2" in cards["srgan@2"]
    entry = json.loads((tmp_path / "srgan@2" / "openmodeldb.json").read_text())
    assert entry["trainingIterations"] == 2
    capsys.readouterr()
    for name, says in (("srgan@3", "has not begun"), ("hr@2", "trains no hr@2"), ("mix", ":between or")):
        assert cli.main(["export", f"{run.root}:{name}", "--out", str(tmp_path / "none")]) == 2
        said = capsys.readouterr().err
        assert (said.count("\n"), says in said) == (1, True), said


def test_a_ranker_is_exported_and_scores_files(
    run: Run, tmp_path: pathlib.Path, photographs: pathlib.Path, capsys: Any
) -> None:
    assert cli.main(["export", f"{run.root}:ranker", "--out", str(tmp_path / "out")]) == 0
    capsys.readouterr()
    assert cli.main(["score", str(photographs), "--metrics", f"ranker:{run.root}", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    from ranksr import images

    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "model.onnx"))
    for row in rows:
        image = images.decode_photograph(pathlib.Path(row["image"]).read_bytes())
        (score,) = session.run(None, {"image": images.to_tensor(image)[None].numpy()})
        assert row[f"ranker:{run.root}"] == pytest.approx(float(score[0]), abs=1e-4)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("{run}:nothing", "trains no nothing: give "),
        ("{run}/ablation/loss/a", "is no run, trial or weights file"),
        ("{run}/run.json", "is no run, trial or weights file"),
        ("/nowhere.pt", "/nowhere.pt does not exist"),
    ],
)
def test_a_network_that_is_none_is_one_line(
    run: Run, tmp_path: pathlib.Path, capsys: Any, model: str, says: str
) -> None:
    assert cli.main(["export", model.format(run=run.root), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert (said.count("\n"), says in said) == (1, True), said
    assert not list((tmp_path / "out").glob("model*"))


def test_a_training_that_is_not_finished_is_not_used(run: Run, tmp_path: pathlib.Path, capsys: Any) -> None:
    storage.delete(run.path("ranksrgan", "stage.json"))
    assert cli.main(["export", run.root, "--out", str(tmp_path / "out")]) == 2
    assert "the training of ranksrgan in" in capsys.readouterr().err


def test_what_is_no_ranker_is_one_line(
    run: Run, photographs: pathlib.Path, tmp_path: pathlib.Path, capsys: Any
) -> None:
    for source in (str(tmp_path / "no run"), run.path("srgan", "weights.pt")):
        assert cli.main(["score", str(photographs), "--metrics", f"ranker:{source}"]) == 2
        said = capsys.readouterr().err
        assert (said.count("\n"), f"ranker:{source}" in said) == (1, True), said


def test_python_takes_and_gives_arrays(run: Run) -> None:
    model = load_model(f"{run.root}:srgan", device="cpu")
    image = np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8)
    sr = model(image)
    assert (sr.dtype, sr.shape) == (np.uint8, (80, 96, 3))
    assert model(image[:, :, 0]).shape == (80, 96)
    assert model(image.astype(np.uint16) * 257).dtype == np.uint16
    with pytest.raises(ValueError, match="uint8 or uint16"):
        model(image / 255)
