"""Weight files made by others: download, read without running code, rename published layouts, load strictly.

Our own files are in checkpoints.py.
"""

import io
import pathlib
import re
from typing import Any, Literal

import safetensors.torch
import torch
from torch import nn

from ranksr import SCALE, downloads, storage
from ranksr.config import FSRCNN, Generator, RRDBNet, SRResNet
from ranksr.errors import UserError

StateDict = dict[str, torch.Tensor]

WRAPPERS = ("params_ema", "params", "state_dict", "net_g", "generator", "model_state_dict", "model")
"""Keys of a file under which training frameworks keep a network's tensors; what was averaged comes first."""
PREFIXES = ("module.", "_orig_mod.", "net_g.", "generator.")
"""Prefixes of the key names of a network that was trained in parallel, compiled, or as a part of another."""

RENAMES = [
    (re.compile(pattern), name)
    for pattern, name in (
        # BasicSR of 2018: one nn.Sequential for the whole network (ESRGAN, the authors' SRResNet and RankSRGAN)
        (r"^model\.1\.sub\.(\d+)\.res\.0\.", r"body.\1.conv1."),
        (r"^model\.1\.sub\.(\d+)\.res\.2\.", r"body.\1.conv2."),
        (r"^model\.1\.sub\.(\d+)\.RDB(\d)\.conv(\d)\.0\.", r"body.\1.rdb\2.conv\3."),
        (r"^model\.1\.sub\.\d+\.(weight|bias)$", r"conv_body.\1"),
        (r"^model\.0\.", "conv_first."),
        (r"^model\.[23]\.", "conv_up1."),  # 2 in SRResNet; 3 in RRDBNet, after the upsampling layer
        (r"^model\.[56]\.", "conv_up2."),
        (r"^model\.8\.", "conv_hr."),
        (r"^model\.10\.", "conv_last."),
        # mmsr of 2019 (ESRGAN's later names, MSRResNet, the authors' later SRResNet), and what BasicSR kept of it
        (r"^(?:recon|RRDB)_trunk\.", "body."),
        (r"\.RDB(\d)\.", r".rdb\1."),
        (r"^(?:LRconv|trunk_conv)\.", "conv_body."),
        (r"^upconv(\d)\.", r"conv_up\1."),
        (r"^HRconv\.", "conv_hr."),
        # FSRCNN, in the layout of its common PyTorch version
        (r"^first_part\.", "extract."),
        (r"^mid_part\.", "mapping."),
        (r"^last_part\.", "upsample."),
        # The authors' Ranker and discriminator of 2019 (features.N is ours too), and mmsr's names for the same stack
        (r"^classifier\.", "head."),
        (r"^conv(\d)_(\d)\.", lambda found: f"features.{_stack_index(found)}."),
        (r"^bn(\d)_(\d)\.", lambda found: f"features.{_stack_index(found) + 1}."),
        (r"^linear1\.", "head.0."),
        (r"^linear2\.", "head.2."),
    )
]
"""Published key names to ours. No two networks share a left side, so one table serves them all."""


def download(url: str) -> str:
    """Path of the cached file, downloaded once; its name must end in `-DIGEST`, the first digits of its SHA-256.

    Raises UserError when it cannot be had or is another file.
    """
    expected = pathlib.PurePosixPath(url).stem.rsplit("-", 1)[1]

    def verify(path: pathlib.Path) -> None:
        digest = downloads.sha256(path)
        if not digest.startswith(expected):
            raise UserError(
                f"{url} came with SHA-256 {digest}, not the one in its name; try again, or name a local file"
            )

    return str(downloads.fetch(url, verify))


def read_state_dict(path: str) -> StateDict:
    """The named tensors of a .pth or .safetensors file, local or s3, on the CPU; never runs code from the file.

    Unwraps what training frameworks put around them (WRAPPERS) and before their names (PREFIXES). Raises UserError for
    anything else.
    """
    try:
        data = storage.read_bytes(path)
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; correct the path of the weights") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error}; correct the path of the weights") from error
    remedy = "give a file written by torch.save(model.state_dict(), path) or by safetensors"
    try:
        if path.endswith(".safetensors"):
            content = safetensors.torch.load(data)
        else:
            content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch meets a damaged file with a dozen kinds, and advises to run what is in it
        raise UserError(
            f"{path} is no weights file: damaged, of another kind, or with code inside; {remedy}"
        ) from error
    found: Any = content
    while isinstance(found, dict) and (inner := next((key for key in WRAPPERS if _is_dict(found, key)), None)):
        found = found[inner]
    if not isinstance(found, dict) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise UserError(f"{path} holds no named tensors; {remedy}")
    return _without_prefixes(found)


def _is_dict(content: dict[str, Any], key: str) -> bool:
    return isinstance(content.get(key), dict)


def _without_prefixes(tensors: StateDict) -> StateDict:
    """The tensors under their names in the network itself; of several networks in one file those of the generator."""
    for prefix in (*PREFIXES, *PREFIXES):  # compiled networks inside parallel ones, and the other way round
        inside = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        tensors = inside or dict(tensors)
    return tensors


def load_into(module: nn.Module, state_dict: StateDict, source: str) -> None:
    """Copy weights into a network, all of them and nothing else.

    Raises UserError with the first differing keys and shapes; `source` says in it where the weights come from.
    """
    own = module.state_dict()
    differences = [f"{key}: not in the file" for key in own if key not in state_dict]
    differences += [f"{key}: not in the network" for key in state_dict if key not in own]
    differences += [
        f"{key}: {_shape(state_dict[key])} in the file, {_shape(value)} in the network"
        for key, value in own.items()
        if key in state_dict and state_dict[key].shape != value.shape
    ]
    if differences:
        raise UserError(
            f"{source} does not fit {type(module).__name__}: {'; '.join(differences[:3])} ({len(differences)} in all); "
            "give weights of this network, or set its features, blocks and skip to those of the file"
        )
    module.load_state_dict(state_dict)


def import_published(module: nn.Module, state_dict: StateDict, source: str) -> None:
    """Load a file of the authors, ESRGAN, BasicSR (old and new names) or FSRCNN into the matching network.

    Key names that no layout explains stay as they are and appear in `load_into`'s error.
    """
    tensors = {_rename(key): value for key, value in _without_prefixes(state_dict).items()}
    load_into(module, _without_cancelled_biases(tensors), source)


def generator_config(state_dict: StateDict, source: str) -> Generator:
    """Architecture and size of the generator that the weights belong to. Raises UserError when it is none of ours."""
    tensors = {_rename(key): value for key, value in state_dict.items()}
    blocks = 1 + max((int(key.split(".")[1]) for key in tensors if re.match(r"body\.\d+\.", key)), default=-1)
    if "extract.0.weight" in tensors and "mapping.0.weight" in tensors:
        _require_channels(tensors, "extract.0.weight", "upsample.weight", 1, source)
        convolutions = sum(value.ndim == 4 for key, value in tensors.items() if key.startswith("mapping."))
        features, shrink = len(tensors["extract.0.weight"]), len(tensors["mapping.0.weight"])
        return FSRCNN(arch="fsrcnn", features=features, shrink=shrink, blocks=convolutions - 2)
    if "conv_first.weight" in tensors and blocks:
        features = len(tensors["conv_first.weight"])
        _require_channels(tensors, "conv_first.weight", "conv_last.weight", 3, source)
        if "body.0.rdb1.conv1.weight" in tensors:
            growth = len(tensors["body.0.rdb1.conv1.weight"])
            _require_upsampling(tensors, features, source)
            return RRDBNet(arch="rrdbnet", features=features, blocks=blocks, growth=growth)
        if "body.0.conv1.weight" in tensors:
            _require_upsampling(tensors, SCALE * features, source)
            skip: Literal["none", "bilinear"] = "none" if "conv_body.weight" in tensors else "bilinear"
            return SRResNet(arch="srresnet", features=features, blocks=blocks, skip=skip)
    raise UserError(
        f"{source} holds no generator that ranksr knows (first keys: {', '.join(list(state_dict)[:3])}): "
        "give weights of SRResNet, MSRResNet, RRDBNet or FSRCNN"
    )


NOT_X4_RGB = "{source} is not a x4 RGB network ({why}): give weights that make RGB images four times as large"


def _require_channels(tensors: StateDict, first: str, last: str, channels: int, source: str) -> None:
    """Raise UserError unless the first convolution takes, and the last one gives, `channels` channels."""
    found = tensors[first].shape[1]
    kinds = {1: "it takes grey", 4: "it takes RGBA", 12: "it is x2, behind a pixel unshuffle", 48: "it is x1"}
    if found != channels:
        why = kinds.get(found, f"it takes {found} channels")
        raise UserError(NOT_X4_RGB.format(source=source, why=why))
    given = tensors[last].shape[0 if channels == 3 else 1] if last in tensors else channels
    if given != channels:
        raise UserError(NOT_X4_RGB.format(source=source, why=f"it gives {given} channels"))


def _require_upsampling(tensors: StateDict, channels: int, source: str) -> None:
    """Raise UserError for a network that does not double the size twice, by convolutions to `channels` channels."""
    steps = [key for key in tensors if re.fullmatch(r"conv_up\d\.weight", key)]
    if len(steps) != 2 or any(len(tensors[key]) != channels for key in steps):
        raise UserError(NOT_X4_RGB.format(source=source, why="its upsampling is of another scale"))


FLAT_LEVELS = 16
"""Largest change, in grey levels of 255, of a flat grey image: trained networks keep within a few, an FSRCNN
of x2 or x3, whose file has the shapes of x4, misses by over 50."""


def require_sound(network: nn.Module, source: str) -> None:
    """Try imported weights on a flat grey image. Raises UserError where the result is no such image, 4 times as large.

    Whether the network was trained for photographs cannot be told so.
    """
    flat = torch.full((1, 3, 24, 24), 0.5)
    with torch.inference_mode():
        made = network.eval()(flat)[0].float()
    if not bool(torch.isfinite(made).all()):
        raise UserError(f"{source} makes NaN or infinite pixels of a flat grey image: its weights are damaged")
    side = SCALE * flat.shape[-1]
    if made.shape != (3, side, side):
        raise UserError(NOT_X4_RGB.format(source=source, why=f"of 24x24 px it makes {_shape(made)}"))
    inner = made[:, side // 4 : -side // 4, side // 4 : -side // 4]  # borders, where convolutions see zeros, may differ
    off = 255 * float((inner - 0.5).abs().max())
    if off > FLAT_LEVELS:
        raise UserError(
            f"{source} is not a x4 RGB network, or is not trained: a flat grey image comes out {off:.0f} grey levels "
            f"off, with trained weights it keeps within {FLAT_LEVELS}; give trained weights of x4"
        )


def _rename(key: str) -> str:
    for pattern, name in RENAMES:
        key = pattern.sub(name, key)
    return key


def _stack_index(found: re.Match[str]) -> int:
    """Index of convolution `stage`_`half` in `strided_stack`: the first is followed by 1 layer, the others by 2."""
    number = 2 * int(found[1]) + int(found[2])
    return max(3 * number - 1, 0)


def _without_cancelled_biases(state_dict: StateDict) -> StateDict:
    """Move the bias before a batch normalisation, which ours lacks, into the running mean: the outputs are the same."""
    moved = dict(state_dict)
    for key, mean in state_dict.items():
        if match := re.fullmatch(r"features\.(\d+)\.running_mean", key):
            bias = moved.pop(f"features.{int(match[1]) - 1}.bias", None)
            if bias is not None:
                moved[key] = mean - bias
    return moved


def _shape(tensor: torch.Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
