"""`ranksr upscale` beside what a user would write instead: spandrel and a plain loop. Same network, cores, files.

python benchmarks/upscale.py [--json]     prints seconds and ratios; both sides take turns, medians of the rounds
"""

import functools
import json
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable

import cv2
import numpy as np
import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "platform"))

from ranksr import checkpoints, images, terminal
from ranksr.config import RRDBNet
from ranksr.data import sources
from ranksr.metrics.external import _import_torchvision
from ranksr.models import build_generator
from ranksr.use import enlarge, release

NETWORK = RRDBNet(arch="rrdbnet", features=64, blocks=2, growth=32)
SIDE_PX, NUM_IMAGES, ROUNDS = 128, 6, 3


def plain_loop(network: torch.nn.Module, folder: pathlib.Path, out: pathlib.Path) -> None:
    """Read, upscale and write one file after the other, with all cores inside torch."""
    torch.set_num_threads(terminal.num_cores())
    for path in sorted(folder.iterdir()):
        image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        tensor = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
        with torch.inference_mode():
            made = network(tensor)[0].clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy()
        cv2.imwrite(str(out / path.name), cv2.cvtColor(made, cv2.COLOR_RGB2BGR))


def timed(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


def main() -> None:
    _import_torchvision()
    import spandrel

    torch.manual_seed(0)
    photo = sources.read_photo("skimage:astronaut")
    results: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as place:
        root = pathlib.Path(place)
        checkpoints.save_generator(str(root / "net.pt"), NETWORK, build_generator(NETWORK).state_dict(), {})
        release.export(str(root / "net.pt"), str(root / "net"), None, pth=False, fp16=False)
        theirs = spandrel.ModelLoader(device="cpu").load_from_file(root / "net" / "model.safetensors").model.eval()
        for name, count in (("one image", 1), ("folder", NUM_IMAGES)):
            folder = root / name
            folder.mkdir()
            for number in range(count):
                part = np.ascontiguousarray(np.roll(photo, 37 * number, 0)[:SIDE_PX, :SIDE_PX])
                (folder / f"{number}.png").write_bytes(images.encode_png(part))
            ours: list[float] = []
            others: list[float] = []
            for turn in range(ROUNDS):
                out = root / f"{name} {turn}"
                (out / "theirs").mkdir(parents=True)
                order = enlarge.Order(str(root / "net.pt"), str(out / "ours"))
                photos = enlarge.find_photographs([str(folder)])
                others.append(timed(functools.partial(plain_loop, theirs, folder, out / "theirs")))
                ours.append(timed(functools.partial(enlarge.upscale_here, photos, order)))
                for path in (out / "theirs").iterdir():
                    own = images.decode((out / "ours" / f"{path.stem}_x4.png").read_bytes())
                    assert np.abs(own.astype(int) - images.decode(path.read_bytes())).max() <= 1
            results[f"{name}, ours, s"] = statistics.median(ours)
            results[f"{name}, spandrel and a loop, s"] = statistics.median(others)
            results[f"{name}, ratio"] = statistics.median(others) / statistics.median(ours)
    if "--json" in sys.argv:
        print(json.dumps(results))
    else:
        for key, value in results.items():
            print(f"{key:32s} {value:8.2f}")


if __name__ == "__main__":
    main()
