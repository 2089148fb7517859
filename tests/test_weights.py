"""Weight files of others: each published layout against a network built in that layout, and what is refused."""

import hashlib
import os
import pathlib
import pickle

import pytest
import safetensors.torch
import torch
from torch import nn
from torch.nn import functional as F

from ranksr import checkpoints, config, weights
from ranksr.config import FSRCNN, Generator, RRDBNet, SRResNet
from ranksr.errors import UserError
from ranksr.models import build_discriminator, build_generator, build_ranker

FEATURES, BLOCKS, GROWTH = 4, 3, 2
SRRESNET = config.SRResNet(arch="srresnet", features=FEATURES, blocks=BLOCKS)
MSRRESNET = config.SRResNet(arch="srresnet", features=FEATURES, blocks=BLOCKS, skip="bilinear")
RRDBNET = config.RRDBNet(arch="rrdbnet", features=FEATURES, blocks=BLOCKS, growth=GROWTH)
RANKER = config.RankerConfig.model_construct(features=FEATURES, hidden=5)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


class Shortcut(nn.Module):
    """Adds a branch, which is kept under a published name."""

    def __init__(self, name: str, branch: nn.Module) -> None:
        super().__init__()
        self.name = name
        self.add_module(name, branch)

    def forward(self, x):
        return x + getattr(self, self.name)(x)


class Dense(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        for i in range(1, 5):
            inputs = FEATURES + (i - 1) * GROWTH
            self.add_module(f"conv{i}", nn.Sequential(conv(inputs, GROWTH), nn.LeakyReLU(0.2)))
        self.conv5 = nn.Sequential(conv(FEATURES + 4 * GROWTH, FEATURES))

    def forward(self, x):
        outputs = [x]
        for i in range(1, 5):
            outputs.append(getattr(self, f"conv{i}")(torch.cat(outputs, 1)))
        return self.conv5(torch.cat(outputs, 1)) * 0.2 + x


class ThreeDense(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.RDB1, self.RDB2, self.RDB3 = Dense(), Dense(), Dense()

    def forward(self, x):
        return self.RDB3(self.RDB2(self.RDB1(x))) * 0.2 + x


def srresnet_of_2018() -> nn.Sequential:
    blocks = [
        Shortcut("res", nn.Sequential(conv(FEATURES, FEATURES), nn.ReLU(), conv(FEATURES, FEATURES)))
        for _ in range(BLOCKS)
    ]
    upsampling = []
    for _ in range(2):
        upsampling += [conv(FEATURES, 4 * FEATURES), nn.PixelShuffle(2), nn.ReLU()]
    trunk = Shortcut("sub", nn.Sequential(*blocks, conv(FEATURES, FEATURES)))
    return nn.Sequential(conv(3, FEATURES), trunk, *upsampling, conv(FEATURES, FEATURES), nn.ReLU(), conv(FEATURES, 3))


def rrdbnet_of_2018() -> nn.Sequential:
    trunk = Shortcut("sub", nn.Sequential(*[ThreeDense() for _ in range(BLOCKS)], conv(FEATURES, FEATURES)))
    upsampling = []
    for _ in range(2):
        upsampling += [nn.Upsample(scale_factor=2), conv(FEATURES, FEATURES), nn.LeakyReLU(0.2)]
    return nn.Sequential(
        conv(3, FEATURES), trunk, *upsampling, conv(FEATURES, FEATURES), nn.LeakyReLU(0.2), conv(FEATURES, 3)
    )


def stack_of_2019(positions: int) -> nn.ModuleDict:
    """The authors' Ranker (1 position) or discriminator: biases everywhere, statistics as after training."""
    layers, channels = [], 3
    for multiple in (1, 2, 4, 8, 8):
        for kernel, stride in ((3, 1), (4, 2)):
            layers.append(nn.Conv2d(channels, multiple * FEATURES, kernel, stride, padding=1))
            channels = multiple * FEATURES
            if len(layers) > 1:
                layers.append(nn.BatchNorm2d(channels))
                nn.init.uniform_(layers[-1].running_mean, -0.2, 0.2)
                nn.init.uniform_(layers[-1].running_var, 0.05, 0.2)
            layers.append(nn.LeakyReLU(0.2))
    head = nn.Sequential(nn.Linear(channels * positions, 5), nn.LeakyReLU(0.2), nn.Linear(5, 1))
    return nn.ModuleDict({"features": nn.Sequential(*layers), "classifier": head}).eval()


def renamed(state: weights.StateDict, *changes: tuple[str, str]) -> weights.StateDict:
    def new(key: str) -> str:
        for old, replacement in changes:
            key = key.replace(old, replacement)
        return key

    return {new(key): value for key, value in state.items()}


@pytest.mark.parametrize(
    ("published", "ours"), [(srresnet_of_2018, SRRESNET), (rrdbnet_of_2018, RRDBNET)], ids=["SRResNet", "ESRGAN"]
)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_basicsr_files_of_2018_give_the_outputs_of_the_network_they_come_from(published, ours, prefix):
    network, generator = published(), build_generator(ours)
    state = {f"{prefix}model.{key}": value for key, value in network.state_dict().items()}
    assert f"{prefix}model.10.weight" in state
    weights.import_published(generator, state, "file")
    lr = torch.rand(2, 3, 9, 7)
    torch.testing.assert_close(generator(lr), network(lr))


@pytest.mark.parametrize(
    ("ours", "changes"),
    [
        (
            SRRESNET,
            [("body.", "recon_trunk."), ("conv_recon_trunk", "LRconv"), ("conv_up", "upconv"), ("conv_hr", "HRconv")],
        ),
        (MSRRESNET, [("body.", "recon_trunk."), ("conv_up", "upconv"), ("conv_hr", "HRconv")]),
        (MSRRESNET, [("conv_up", "upconv")]),
        (
            RRDBNET,
            [
                ("body.", "RRDB_trunk."),
                ("conv_RRDB_trunk", "trunk_conv"),
                ("rdb", "RDB"),
                ("conv_up", "upconv"),
                ("conv_hr", "HRconv"),
            ],
        ),
        (RRDBNET, []),
    ],
    ids=["authors' later SRResNet", "mmsr MSRResNet", "BasicSR MSRResNet", "ESRGAN's later names", "BasicSR RRDBNet"],
)
def test_later_names_of_the_same_networks_are_understood(ours, changes):
    source, target = build_generator(ours), build_generator(ours)
    weights.import_published(target, renamed(source.state_dict(), *changes), "file")
    assert all(torch.equal(value, target.state_dict()[key]) for key, value in source.state_dict().items())


def test_msrresnet_gives_the_outputs_of_its_published_structure():
    generator = build_generator(MSRRESNET)
    state = {key: torch.randn_like(value) * 0.2 for key, value in generator.state_dict().items()}
    weights.import_published(generator, renamed(state, ("conv_up", "upconv")), "file")

    def layer(x, name):
        return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=1)

    lr = torch.rand(1, 3, 6, 8)
    x = F.leaky_relu(layer(lr, "conv_first"), 0.1)
    for block in range(BLOCKS):
        x = x + layer(F.relu(layer(x, f"body.{block}.conv1")), f"body.{block}.conv2")
    for name in ("conv_up1", "conv_up2"):
        x = F.leaky_relu(F.pixel_shuffle(layer(x, name), 2), 0.1)
    expected = layer(F.leaky_relu(layer(x, "conv_hr"), 0.1), "conv_last")
    expected = expected + F.interpolate(lr, size=(24, 32), mode="bilinear", align_corners=False)
    torch.testing.assert_close(generator(lr), expected)


def test_the_authors_ranker_gives_its_scores_although_ours_has_no_bias_before_normalisation():
    published, ranker = stack_of_2019(positions=1), build_ranker(RANKER).eval()
    weights.import_published(ranker, {f"module.{key}": value for key, value in published.state_dict().items()}, "file")
    image = torch.rand(2, 3, 40, 70)
    expected = published["classifier"](published["features"](image).mean((2, 3)))[:, 0]
    torch.testing.assert_close(ranker(image), expected)


def test_the_authors_discriminator_gives_its_logits():
    published = stack_of_2019(positions=4)
    discriminator = build_discriminator(config.Discriminator(features=FEATURES, hidden=5), 64).eval()
    weights.import_published(discriminator, published.state_dict(), "file")
    image = torch.rand(2, 3, 64, 64)
    expected = published["classifier"](published["features"](image).flatten(1))[:, 0]
    torch.testing.assert_close(discriminator(image), expected)


def test_mmsr_names_of_the_ranker_are_understood():
    source, target = build_ranker(RANKER), build_ranker(RANKER)
    indices = [0, *range(2, 28, 3)]
    names = [(f"features.{i}.", f"conv{n // 2}_{n % 2}.") for n, i in enumerate(indices)]
    names += [(f"features.{i + 1}.", f"bn{n // 2}_{n % 2}.") for n, i in enumerate(indices) if n]
    state = renamed(source.state_dict(), *names, ("head.0", "linear1"), ("head.2", "linear2"))
    assert {"conv0_0.bias", "bn4_1.running_var", "linear2.weight"} < state.keys()
    weights.import_published(target, state, "file")
    assert all(torch.equal(value, target.state_dict()[key]) for key, value in source.state_dict().items())


def test_a_mismatch_lists_the_first_differing_keys_and_shapes():
    generator = build_generator(SRRESNET)
    state = build_generator(SRRESNET.model_copy(update={"features": 6})).state_dict()
    del state["conv_last.bias"]
    with pytest.raises(UserError) as error:
        weights.import_published(generator, state | {"extra": torch.zeros(1)}, "some.pth")
    for part in (
        "some.pth does not fit SRResNet",
        "conv_last.bias: not in the file",
        "extra: not in the network",
        "conv_first.weight: 6x3x3x3 in the file, 4x3x3x3 in the network",
        "in all",
    ):
        assert part in str(error.value)


def test_weights_of_the_variant_with_another_skip_are_refused():
    state = build_generator(MSRRESNET).state_dict()
    with pytest.raises(UserError, match=r"conv_body.weight: not in the file.*skip"):
        weights.import_published(build_generator(SRRESNET), state, "msrresnet.pth")


@pytest.mark.parametrize("wrapped", [None, "params", "params_ema", "state_dict"])
@pytest.mark.parametrize("zipped", [True, False])
def test_state_dicts_are_read_from_files_old_and_new_bare_or_wrapped(tmp_path, wrapped, zipped):
    state = {"a": torch.arange(3.0)}
    path = tmp_path / "weights.pth"
    torch.save({wrapped: state} if wrapped else state, path, _use_new_zipfile_serialization=zipped)
    found = weights.read_state_dict(str(path))
    assert found.keys() == {"a"}
    assert torch.equal(found["a"], state["a"])


class Trap:
    def __reduce__(self):
        return os.mkdir, ("sprung",)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: torch.save({"a": Trap()}, path),
        lambda path: path.write_bytes(pickle.dumps(Trap(), protocol=2)),
        lambda path: path.write_bytes(b"no weights at all"),
        lambda path: path.write_bytes(b""),
        lambda path: torch.save([torch.zeros(1)], path),
        lambda path: torch.save({"a": 1}, path),
        lambda path: torch.save(nn.Linear(1, 1), path),
    ],
    ids=["code", "pickle", "text", "empty", "list", "numbers", "module"],
)
def test_a_file_with_code_or_without_named_tensors_is_refused_and_nothing_in_it_runs(tmp_path, monkeypatch, write):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "weights.pth")
    with pytest.raises(UserError, match=r"weights.pth .*torch.save"):
        weights.read_state_dict(str(tmp_path / "weights.pth"))
    assert not (tmp_path / "sprung").exists()


def test_a_truncated_file_is_refused(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"a": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(UserError, match=r"weights.pth is no weights file"):
        weights.read_state_dict(str(path))


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*correct the path"):
        weights.read_state_dict(str(tmp_path))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none.pth does not exist"):
        weights.read_state_dict(str(tmp_path / "none.pth"))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RANKSR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_download_with_another_hash_than_its_name_is_refused_and_leaves_nothing(tmp_path, cache):
    (tmp_path / "vgg19-00000000.pth").write_bytes(b"not VGG19")
    with pytest.raises(UserError, match=r"vgg19-00000000.pth came with SHA-256"):
        weights.download((tmp_path / "vgg19-00000000.pth").as_uri())
    assert not list(cache.glob("[!.]*"))


def test_a_download_that_cannot_be_reached_says_what_to_do(tmp_path, cache):
    with pytest.raises(UserError, match=r"cannot download .*name a local file"):
        weights.download((tmp_path / "none-00000000.pth").as_uri())
    assert not list(cache.glob("[!.]*"))


def test_a_download_is_kept_in_the_cache(tmp_path, cache):
    content = b"weights"
    name = f"net-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    (tmp_path / name).write_bytes(content)
    assert weights.download((tmp_path / name).as_uri()) == str(cache / name)
    (tmp_path / name).unlink()
    assert weights.download((tmp_path / name).as_uri()) == str(cache / name)


WRAPPED = {
    "plain": lambda tensors: tensors,
    "params_ema": lambda tensors: {"params": {}, "params_ema": tensors},
    "net_g": lambda tensors: {"net_g": tensors, "epoch": 3},
    "generator": lambda tensors: {"generator": tensors, "discriminator": {"x": torch.zeros(1)}},
    "model": lambda tensors: {"model": {"state_dict": tensors}},
    "compiled": lambda tensors: {f"_orig_mod.{key}": value for key, value in tensors.items()},
    "parallel and compiled": lambda tensors: {f"module._orig_mod.{key}": value for key, value in tensors.items()},
    "compiled and parallel": lambda tensors: {f"_orig_mod.module.{key}": value for key, value in tensors.items()},
    "lightning": lambda tensors: {
        "state_dict": {
            **{f"net_g.{key}": value for key, value in tensors.items()},
            "net_d.conv.weight": torch.zeros(1),
        }
    },
}
"""How training frameworks wrap a network's tensors, by the framework's word for it."""


@pytest.fixture(scope="module")
def sound() -> torch.nn.Module:
    """A network that keeps a flat image flat: untrained, MSRResNet adds next to nothing to the bilinear image."""
    torch.manual_seed(0)
    return build_generator(SRResNet(arch="srresnet", features=8, blocks=2, skip="bilinear")).eval()


@pytest.mark.parametrize("kind", ["pth", "safetensors"])
@pytest.mark.parametrize("wrapper", WRAPPED)
def test_every_wrapper_is_unwrapped_and_safetensors_are_read(
    sound: torch.nn.Module, tmp_path: pathlib.Path, wrapper: str, kind: str
) -> None:
    content = WRAPPED[wrapper](sound.state_dict())
    path = tmp_path / f"weights.{kind}"
    if kind == "pth":
        torch.save(content, path)
    elif all(isinstance(value, torch.Tensor) for value in content.values()):
        safetensors.torch.save_file({key: value.contiguous() for key, value in content.items()}, path)
    else:
        pytest.skip("safetensors hold tensors only")
    lr = torch.rand(1, 3, 16, 16)
    assert torch.equal(checkpoints.load_generator(str(path))(lr), sound(lr))
    started = checkpoints.start_weights(str(path), SRResNet(arch="srresnet", features=8, blocks=2, skip="bilinear"))
    assert all(torch.equal(value, started[key]) for key, value in sound.state_dict().items())


def test_a_damaged_safetensors_file_is_named(tmp_path: pathlib.Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"\xff" * 40)
    with pytest.raises(UserError, match=r"x.safetensors is no weights file: damaged"):
        checkpoints.load_generator(str(tmp_path / "x.safetensors"))


def changed(network: torch.nn.Module, shapes: dict[str, tuple[int, ...] | None]) -> dict[str, torch.Tensor]:
    """The tensors of a network, with zeros of other shapes in the place of some; None leaves one out."""
    tensors = dict(network.state_dict())
    for key, shape in shapes.items():
        tensors.pop(key, None)
        if shape is not None:
            tensors[key] = torch.zeros(shape)
    return tensors


@pytest.mark.parametrize(
    ("of", "shapes", "says"),
    [
        (SRResNet(arch="srresnet", features=8, blocks=1), {"conv_first.weight": (8, 1, 3, 3)}, "it takes grey"),
        (SRResNet(arch="srresnet", features=8, blocks=1), {"conv_first.weight": (8, 4, 3, 3)}, "it takes RGBA"),
        (SRResNet(arch="srresnet", features=8, blocks=1), {"conv_last.weight": (1, 8, 3, 3)}, "it gives 1 channels"),
        (SRResNet(arch="srresnet", features=8, blocks=1), {"conv_up2.weight": None}, "another scale"),
        (SRResNet(arch="srresnet", features=8, blocks=1), {"conv_up3.weight": (32, 8, 3, 3)}, "another scale"),
        (SRResNet(arch="srresnet", features=8, blocks=1), {"conv_up1.weight": (72, 8, 3, 3)}, "another scale"),
        (RRDBNet(arch="rrdbnet", features=8, blocks=1, growth=4), {"conv_first.weight": (8, 12, 3, 3)}, "it is x2"),
        (RRDBNet(arch="rrdbnet", features=8, blocks=1, growth=4), {"conv_first.weight": (8, 48, 3, 3)}, "it is x1"),
        (RRDBNet(arch="rrdbnet", features=8, blocks=1, growth=4), {"conv_up3.weight": (8, 8, 3, 3)}, "another scale"),
        (FSRCNN(arch="fsrcnn"), {"extract.0.weight": (56, 3, 5, 5)}, "it takes 3 channels"),
    ],
)
def test_a_network_of_another_scale_or_colour_is_no_x4_rgb_network(
    tmp_path: pathlib.Path, of: Generator, shapes: dict, says: str
) -> None:
    torch.save(changed(build_generator(of), shapes), tmp_path / "x.pth")
    with pytest.raises(UserError, match=f"x.pth is not a x4 RGB network .*{says}"):
        checkpoints.load_generator(str(tmp_path / "x.pth"))
    with pytest.raises(UserError, match=f"x.pth is not a x4 RGB network .*{says}"):
        checkpoints.start_weights(str(tmp_path / "x.pth"), of)


def test_an_fsrcnn_of_another_scale_has_the_same_shapes_and_is_told_by_a_flat_image(
    tmp_path: pathlib.Path, shared
) -> None:
    """At x2 a pixel gets a quarter of the taps' sum, at x4 a sixteenth."""
    path = shared("weights/fsrcnn_x4.pth")
    checkpoints.load_generator(str(path))
    for scale in (2, 3):
        tensors = weights.read_state_dict(str(path))
        key = next(name for name, value in tensors.items() if name.endswith("weight") and value.shape[-1] == 9)
        torch.save({**tensors, key: tensors[key] * (scale / 4) ** 2}, tmp_path / "other.pth")
        with pytest.raises(UserError, match="a flat grey image comes out .* grey levels off"):
            checkpoints.load_generator(str(tmp_path / "other.pth"))


def test_weights_that_give_nan_are_refused_when_loaded(sound: torch.nn.Module, tmp_path: pathlib.Path) -> None:
    tensors = {key: value.clone() for key, value in sound.state_dict().items()}
    tensors["conv_hr.bias"][0] = float("nan")
    torch.save(tensors, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"x.pth makes NaN or infinite pixels of a flat grey image"):
        checkpoints.load_generator(str(tmp_path / "x.pth"))
