"""`ranksr upscale`: what users have goes in, and comes out four times as large with all that it had."""

import io
import pathlib
import signal
import subprocess
import sys
import time
from typing import Any

import imagecodecs
import numpy as np
import PIL.Image
import PIL.ImageCms
import pytest
import tifffile
import torch

from ranksr import checkpoints, cli, images, storage
from ranksr.config import RRDBNet, SRResNet
from ranksr.data.upscale import upscale
from ranksr.decoding import decode_picture
from ranksr.models import build_generator
from ranksr.use import enlarge

SMALL = SRResNet(arch="srresnet", features=8, blocks=1, skip="bilinear")


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Weights of an untrained generator that keeps what bilinear interpolation makes."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("network") / "net.pt"
    checkpoints.save_generator(str(path), SMALL, build_generator(SMALL).state_dict(), {"step": 1})
    return path


@pytest.fixture
def small(photograph: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(photograph[100:140, 200:248])


def run(*arguments: Any) -> int:
    return cli.main(["upscale", *map(str, arguments)])


def read(path: pathlib.Path) -> Any:
    return decode_picture(path.read_bytes())


def as_file(image: PIL.Image.Image, form: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def test_everything_that_a_file_has_is_kept(network: pathlib.Path, small: np.ndarray, tmp_path: pathlib.Path) -> None:
    colour, ramp = PIL.Image.fromarray(small), np.tile(np.linspace(0, 255, 48).astype(np.uint8), (40, 1))
    grey = colour.convert("L")
    profile = PIL.ImageCms.ImageCmsProfile(PIL.ImageCms.createProfile("sRGB")).tobytes()
    turned = colour.getexif()
    turned[0x0112] = 6
    deep = small.astype(np.uint16) * 257
    twelve = io.BytesIO()
    tifffile.imwrite(twelve, (deep >> 4), photometric="rgb", extratags=[(281, 3, 3, (4095, 4095, 4095), True)])
    files = {
        "plain.png": as_file(colour, "PNG"),
        "alpha.png": as_file(PIL.Image.fromarray(np.dstack([small, ramp])), "PNG", icc_profile=profile),
        "grey.png": as_file(grey, "PNG"),
        "greyalpha.png": as_file(PIL.Image.fromarray(np.dstack([np.asarray(grey), ramp])), "PNG"),
        "deep.png": imagecodecs.png_encode(deep),
        "profile.jpg": as_file(colour, "JPEG", icc_profile=profile, quality=95),
        "sub/turned.jpg": as_file(colour, "JPEG", exif=turned, quality=95),
        "twelve.tif": twelve.getvalue(),
    }
    for name, data in files.items():
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(data)
    assert run(network, tmp_path / "in", "--out", tmp_path / "out") == 0
    made = {path.stem.removesuffix("_x4"): read(path) for path in (tmp_path / "out").rglob("*.png")}
    assert made.keys() == {pathlib.PurePath(name).stem for name in files}
    shapes = {name: picture.pixels.shape for name, picture in made.items()}
    assert shapes["turned"] == (192, 160, 3)
    assert shapes["grey"] == shapes["greyalpha"] == (160, 192)
    assert {name for name, shape in shapes.items() if shape == (160, 192, 3)} == made.keys() - {
        "turned", "grey", "greyalpha",
    }  # fmt: skip
    assert {name for name, picture in made.items() if picture.pixels.dtype == np.uint16} == {"deep", "twelve"}
    assert {name for name, picture in made.items() if picture.alpha is not None} == {"alpha", "greyalpha"}
    assert {name for name, picture in made.items() if picture.icc == profile} == {"alpha", "profile"}
    assert np.abs(made["alpha"].alpha[80].astype(int) - np.interp(np.arange(192) / 4 - 0.375, np.arange(48), ramp[0])).max() <= 2  # fmt: skip
    # Sixteen bits are more than eight: the same image, in finer steps.
    assert np.abs(made["deep"].pixels / 257 - made["plain"].pixels).max() <= 0.51
    assert np.abs(made["twelve"].pixels / 257 - made["plain"].pixels).max() <= 1


@pytest.mark.parametrize("form", ["png", "jpg", "webp", "tiff"])
def test_each_format_holds_what_it_can(
    network: pathlib.Path, small: np.ndarray, tmp_path: pathlib.Path, form: str
) -> None:
    profile = PIL.ImageCms.ImageCmsProfile(PIL.ImageCms.createProfile("sRGB")).tobytes()
    alpha = np.full((40, 48), 99, np.uint8)
    image = PIL.Image.fromarray(np.dstack([small, alpha]))
    (tmp_path / "a.png").write_bytes(as_file(image, "PNG", icc_profile=profile))
    assert run(network, tmp_path / "a.png", "--out", tmp_path / "out", "--format", form, "--quality", 100) == 0
    (path,) = (tmp_path / "out").glob("a_x4.*")
    made = read(path)
    assert (made.pixels.shape, made.icc) == ((160, 192, 3), profile)
    assert (made.alpha is None) == (form == "jpg")
    assert form == "jpg" or (made.alpha == 99).all()


def test_tiles_cannot_be_seen(photograph: np.ndarray) -> None:
    """Also with a network whose receptive field is larger than the overlap."""
    torch.manual_seed(0)
    lr = np.ascontiguousarray(photograph[:150, :170])
    for config in (SRResNet(arch="srresnet", features=16, blocks=16), RRDBNet(arch="rrdbnet", features=8, blocks=6)):
        generator = build_generator(config).eval()
        whole = upscale(generator, lr, tile_px=512).astype(int)
        assert np.abs(upscale(generator, lr, tile_px=64) - whole).max() <= 1


def test_the_self_ensemble_of_a_turned_image_is_the_turned_ensemble(network: pathlib.Path, small: np.ndarray) -> None:
    generator = checkpoints.load_generator(str(network))
    made = upscale(generator, small, ensemble=True).astype(int)
    turned = upscale(generator, np.ascontiguousarray(np.rot90(small)), ensemble=True).astype(int)
    assert np.abs(np.rot90(made) - turned).max() <= 1
    assert np.abs(upscale(generator, small).astype(int) - made).max() > 0


def test_a_bad_file_is_named_and_the_rest_is_done(
    network: pathlib.Path, small: np.ndarray, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = images.encode_png(small)
    (tmp_path / "good.png").write_bytes(good)
    (tmp_path / "half.png").write_bytes(good[: len(good) // 2])
    assert (
        run(network, tmp_path / "good.png", tmp_path / "half.png", tmp_path / "none.png", "--out", tmp_path / "o") == 1
    )
    said = capsys.readouterr().err.splitlines()
    assert [line.partition(": ")[2].partition(": ")[0] for line in sorted(said)] == [
        str(tmp_path / "half.png"), str(tmp_path / "none.png"),
    ]  # fmt: skip
    assert [path.name for path in (tmp_path / "o").glob("*.png")] == ["good_x4.png"]


def test_nothing_is_overwritten_unless_it_is_asked_for(
    network: pathlib.Path, small: np.ndarray, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.png").write_bytes(images.encode_png(small))
    assert run(network, tmp_path / "a.png", "--out", tmp_path / "out") == 0
    made = tmp_path / "out" / "a_x4.png"
    made.write_bytes(b"kept")
    assert run(network, tmp_path / "a.png", "--out", tmp_path / "out") == 0
    assert made.read_bytes() == b"kept"
    assert run(network, tmp_path / "a.png", "--out", tmp_path / "out", "--x8") == 2
    assert "holds images of another network or with other settings" in capsys.readouterr().err
    assert run(network, tmp_path / "a.png", "--out", tmp_path / "out", "--x8", "--overwrite") == 0
    assert read(made).pixels.shape == (160, 192, 3)


def test_overwriting_that_is_cut_off_leaves_no_mixture(
    network: pathlib.Path, small: np.ndarray, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(images.encode_png(small))
    arguments = [network, tmp_path / "a.png", tmp_path / "b.png", "--out", tmp_path / "out"]
    assert run(*arguments) == 0
    plain = (tmp_path / "out" / "a_x4.png").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(enlarge, "upscale_here", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert run(*arguments, "--x8", "--overwrite") == 130
    assert run(*arguments, "--x8") == 0  # goes on: nothing of the former network's is taken for its own
    made = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.png")}
    assert made.keys() == {"a_x4.png", "b_x4.png"}
    assert plain not in made.values()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["/no/run", "a.png", "--out", "o"], "is no run, trial or weights file"),
        (["text.pt", "a.png", "--out", "o"], "is no weights file"),
        (["net.pt", "empty", "--out", "o"], "holds no image file"),
        (["net.pt", "a.png", "--out", "text.pt/o"], "cannot write to output folder"),
        (["net.pt", "a.png", "a.bmp", "--out", "o"], "would both become a"),
        (["net.pt", "a.png", "--out", "o", "--quality", "0"], "--quality 0"),
        (["net.pt", "a.png", "--out", "o", "--tile", "3"], "--tile 3"),
        (["net.pt", "a.png", "--out", "o", "--suffix", "/x"], "--suffix"),
        (["net.pt", "a.png", "--out", "o", "--jobs", "0"], "--jobs 0"),
    ],
)
def test_a_mistake_is_one_line(
    network: pathlib.Path,
    small: np.ndarray,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.pt").write_text("no weights")
    (tmp_path / "net.pt").write_bytes(network.read_bytes())
    for name in ("a.png", "a.bmp"):
        (tmp_path / name).write_bytes(as_file(PIL.Image.fromarray(small), name[2:].upper()))
    assert run(*arguments) == 2
    said = capsys.readouterr().err
    assert (said.count("\n"), says in said) == (1, True), said
    assert not list(tmp_path.glob("o/*.png"))


def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(
    network: pathlib.Path, small: np.ndarray, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    (tmp_path / "a.png").write_bytes(images.encode_png(small))
    write = storage.write_bytes

    def fails(path: str, data: bytes) -> None:
        if path.endswith("_x4.png"):
            raise OSError(28, "No space left on device")
        write(path, data)

    monkeypatch.setattr(storage, "write_bytes", fails)
    assert run(network, tmp_path / "a.png", "--out", tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert (said.count("\n"), "No space left on device" in said) == (1, True)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["upscale.json"]


@pytest.mark.slow
def test_a_killed_command_goes_on_where_it_was(
    network: pathlib.Path, photograph: np.ndarray, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "in").mkdir()
    for number in range(24):
        (tmp_path / "in" / f"{number:02d}.png").write_bytes(images.encode_png(np.roll(photograph, number, 0)))
    script = "import sys; from ranksr import cli; sys.exit(cli.main())"
    command = [
        sys.executable,
        "-c",
        script,
        "upscale",
        str(network),
        str(tmp_path / "in"),
        "--out",
        str(tmp_path / "out"),
    ]
    process = subprocess.Popen([*command, "--jobs", "1"])
    while len(list(tmp_path.glob("out/*.png"))) < 3:
        time.sleep(0.05)
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.png")}
    assert 3 <= len(before) < 24
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"{len(before)} of 24 images are there" in done.stdout
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.png")}
    assert len(after) == 24
    assert after.items() >= before.items()
    assert read(tmp_path / "out" / "00_x4.png").pixels.shape == (2048, 2048, 3)
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".writing-")] or before


@pytest.mark.slow
def test_twelve_megapixels_take_less_than_two_gigabytes(
    network: pathlib.Path, photograph: np.ndarray, tmp_path: pathlib.Path
) -> None:
    large = np.tile(photograph, (6, 8, 1))[:3000, :4000]
    (tmp_path / "large.jpg").write_bytes(as_file(PIL.Image.fromarray(large), "JPEG", quality=90))
    script = (
        "import sys, resource; from ranksr import cli; code = cli.main(); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "upscale", str(network), str(tmp_path / "large.jpg"), "--out", str(tmp_path / "out")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert int(done.stderr.split()[-1]) < 2 * 2**20  # KiB
    with (tmp_path / "out" / "large_x4.png").open("rb") as stream:
        assert np.frombuffer(stream.read(24), ">u4", 2, 16).tolist() == [16000, 12000]


@pytest.mark.ray
def test_the_same_images_come_out_of_ray_and_are_not_made_twice(
    network: pathlib.Path,
    small: np.ndarray,
    tmp_path: pathlib.Path,
    ray_cluster: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from ranksr import session

    monkeypatch.setattr(session, "connect", lambda: None)
    (tmp_path / "in").mkdir()
    for number in range(6):
        (tmp_path / "in" / f"{number}.png").write_bytes(images.encode_png(np.roll(small, number, 0)))
    (tmp_path / "in" / "bad.png").write_bytes(b"no image")
    assert run(network, tmp_path / "in", "--out", tmp_path / "here") == 1
    capsys.readouterr()
    assert run(network, tmp_path / "in", "--out", tmp_path / "ray", "--ray", "--jobs", 2) == 1
    assert f"ranksr: {tmp_path / 'in' / 'bad.png'}: " in capsys.readouterr().err
    made = {path.name: path.read_bytes() for path in (tmp_path / "ray").glob("*.png")}
    assert made == {path.name: path.read_bytes() for path in (tmp_path / "here").glob("*.png")}
    assert len(made) == 6
    (tmp_path / "ray" / "3_x4.png").unlink()
    assert run(network, tmp_path / "in", "--out", tmp_path / "ray", "--ray", "--jobs", 2) == 1
    assert (tmp_path / "ray" / "3_x4.png").read_bytes() == made["3_x4.png"]  # what is gone is made again
    assert run(network, tmp_path / "in", "--out", tmp_path / "ray", "--ray", "--jobs", 2, "--format", "tiff") == 1
    assert len(list((tmp_path / "ray").glob("*.tif"))) == 6
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "ray").glob("*.png")}
    assert run(network, tmp_path / "in", "--out", tmp_path / "ray", "--ray", "--jobs", 2) == 1
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "ray").glob("*.png")}
