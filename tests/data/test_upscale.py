"""Upscaling: tiles that cannot be seen, images made elsewhere, published weights."""

import pathlib

import numpy as np
import pytest
import torch

from ranksr import checkpoints, images, weights
from ranksr.config import FSRCNN, Generator, RRDBNet, SRResNet
from ranksr.data import parts, sources, upscale
from ranksr.errors import UserError
from ranksr.models import build_generator


@pytest.fixture(scope="module")
def generator() -> torch.nn.Module:
    """An untrained SRResNet of two blocks, whose receptive field is smaller than the overlap of tiles."""
    torch.manual_seed(0)
    return build_generator(SRResNet(arch="srresnet", features=8, blocks=2, skip="bilinear")).eval()


def call(methods: dict[str, str], photo: pathlib.Path, given: dict[str, str] | None = None) -> upscale.UpscaledPart:
    """One photograph through an Upscaler."""
    files = {name: {photo.stem: path} for name, path in (given or {}).items()}
    described = parts.describe([sources.Photo(photo.stem, str(photo))], files)
    return upscale.Upscaler(methods, smallest_px=32, num_gpus=0)(parts.Part("part", tuple(described)))


def test_tiles_give_the_image_that_the_whole_gives(
    generator: torch.nn.Module, photograph: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    lr = images.downscale(photograph[:400])
    whole = upscale.upscale(generator, lr)
    monkeypatch.setattr(upscale, "TILE_PX", 48)
    tiled = upscale.upscale(generator, lr)
    assert tiled.shape == whole.shape == (400, 512, 3)
    assert np.abs(tiled.astype(int) - whole).max() <= 1  # one grey level: another order of the same sums


def test_a_photograph_of_30000_px_width_is_upscaled(generator: torch.nn.Module, tmp_path: pathlib.Path) -> None:
    wide = np.zeros((40, 30000, 3), np.uint8)
    (tmp_path / "wide.png").write_bytes(images.encode_png(wide))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "load_generator", lambda _: generator)
        (done,) = call({"small": "weights", "bicubic": "bicubic"}, tmp_path / "wide.png").photos
    assert [picture.shape for picture in done.pictures.values()] == [wide.shape, wide.shape]


def test_images_made_elsewhere_are_taken_as_they_are(photographs: pathlib.Path, tmp_path: pathlib.Path) -> None:
    hr = images.decode((photographs / "coffee.png").read_bytes())
    (tmp_path / "coffee.png").write_bytes(images.encode_png(255 - hr))
    (done,) = call(
        {"theirs": "given", "hr": "hr"}, photographs / "coffee.png", {"theirs": str(tmp_path / "coffee.png")}
    ).photos
    assert np.array_equal(done.pictures["theirs"], 255 - hr)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (images.encode_png(np.zeros((240, 236, 3), np.uint8)), "is 236x240 px, not 240x240 px"),
        (b"text", "no image"),
        (None, "theirs has no image of it"),
    ],
)
def test_an_unusable_image_made_elsewhere_rejects_the_photograph_by_name(
    photographs: pathlib.Path, tmp_path: pathlib.Path, content: bytes | None, reason: str
) -> None:
    given = {"theirs": str(tmp_path / "coffee.png")} if content is not None else {}
    (tmp_path / "coffee.png").write_bytes(content or b"")
    part = call({"theirs": "given"}, photographs / "coffee.png", given)
    assert part.photos == []
    assert part.rejected[0].path == str(photographs / "coffee.png")
    assert reason in part.rejected[0].reason


def test_a_bare_state_dict_is_a_method(
    generator: torch.nn.Module, photographs: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    torch.save({f"module.{key}": value for key, value in generator.state_dict().items()}, tmp_path / "their.pth")
    (done,) = call({"theirs": str(tmp_path / "their.pth")}, photographs / "coffee.png").photos
    lr = images.downscale(images.decode((photographs / "coffee.png").read_bytes()))
    assert np.array_equal(done.pictures["theirs"], upscale.upscale(generator, lr))


@pytest.mark.parametrize(
    "config",
    [
        SRResNet(arch="srresnet", features=8, blocks=3, skip="none"),
        SRResNet(arch="srresnet", features=8, blocks=3, skip="bilinear"),
        RRDBNet(arch="rrdbnet", features=8, blocks=2, growth=4),
        FSRCNN(arch="fsrcnn", features=8, shrink=4, blocks=3),
    ],
    ids=str,
)
def test_the_architecture_of_a_file_is_found_by_its_weights(tmp_path: pathlib.Path, config: Generator) -> None:
    network = build_generator(config)
    assert weights.generator_config(network.state_dict(), "a file") == config
    checkpoints.save_generator(str(tmp_path / "w.pt"), config, network.state_dict(), {})
    loaded = checkpoints.load_generator(str(tmp_path / "w.pt"))
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in loaded.state_dict().items())


def test_weights_of_something_else_are_refused_by_name(tmp_path: pathlib.Path) -> None:
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "linear.pth")
    with pytest.raises(UserError, match=r"linear.pth holds no generator that ranksr knows \(first keys: weight, bias"):
        checkpoints.load_generator(str(tmp_path / "linear.pth"))


def test_missing_and_extra_images_are_named(
    photographs: pathlib.Path, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    photos = sources.list_photos(str(photographs))
    for name in ("coffee", "chelsea", "stranger"):
        (tmp_path / f"{name}.png").write_bytes(b"x")
    with pytest.raises(UserError, match=r"theirs: .* has no image of 1 of 3 photographs \(motorcycle_left\)"):
        sources.match_images("theirs", str(tmp_path), photos)
    found = sources.match_images("theirs", str(tmp_path), photos, most_missing=1)
    assert sorted(found) == ["chelsea", "coffee"]
    assert "1 images of" in caplog.text
    assert "stranger" in caplog.text


def test_a_network_that_gives_nan_ends_the_job_by_its_name_and_the_images(
    generator: torch.nn.Module, photographs: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    tensors = {key: value.clone() for key, value in generator.state_dict().items()}
    tensors["conv_hr.bias"][0] = float("nan")
    config = SRResNet(arch="srresnet", features=8, blocks=2, skip="bilinear")
    checkpoints.save_generator(str(tmp_path / "own.pt"), config, tensors, {})
    with pytest.raises(UserError, match=f"broken gives NaN for {photographs / 'coffee.png'}"):
        call({"broken": str(tmp_path / "own.pt")}, photographs / "coffee.png")
