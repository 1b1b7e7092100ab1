"""The tables on corruptions in docs/numbers.md.

    python benchmarks/corruptions.py peer CHECKOUT CIFAR10.npz 32 100
    python benchmarks/corruptions.py peer CHECKOUT FOLDER 224 4
    python benchmarks/corruptions.py cost MODEL CIFAR10.npz

peer: ours beside the published code (a checkout of github.com/hendrycks/robustness, not part of this project; it needs
opencv-python, scikit-image and Wand with ImageMagick), both fed with the same random numbers: mean |difference| in
levels. What numpy, scipy and scikit-image have renamed since is renamed on the way; nothing else in it is changed.
cost: seconds of one core for each corruption, and for the network.
"""

import sys
import time
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import wideresnet as wrn
from wideresnet import corruptions, kernels, runtime
from wideresnet.corruptions import CORRUPTIONS, SEVERITIES

RENAMED = {
    "scipy.ndimage.interpolation": "scipy.ndimage",
    "np.float_": "np.float64",
    "multichannel=True": "channel_axis=-1",
    "np.fromstring": "np.frombuffer",
    "from pkg_resources import resource_filename\n": "",
    ", mode='L')": ")",
}


class Fed(types.ModuleType):
    """Numpy for the published code, whose random numbers are those that ours draws, in the order in which ours does."""

    def __init__(self, name: str, severity: int, size: int, digest: bytes) -> None:
        super().__init__("numpy")
        self.random, self.name = self, name
        self.g = corruptions._generator(f"0/{name}/{severity}/".encode() + digest)
        if name == "fog":
            side = 1 << (size - 1).bit_length()
            self.flat = 2.0 * self.g.random(side * side - 1, dtype=np.float32) - 1
        if name == "elastic_transform":
            moves = self.g.random((3, 2), dtype=np.float32)
            down, right = self.g.random((2, size, size), dtype=np.float32)
            self.waiting = [moves, right, down]
        if name == "glass_blur":
            table = next(one for one in CORRUPTIONS if one.name == name)
            _, far, times = map(int, corruptions.constants_for(table, severity, size))
            self.steps = iter(
                [
                    steps[::-1, h, w]
                    for steps in [self.g.integers(-far, far, (2, size, size)) for _ in range(times)]
                    for h in range(size - far, far, -1)
                    for w in range(size - far, far, -1)
                ]
            )

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def normal(self, size: Any, loc: float = 0.0, scale: float = 1.0) -> Any:
        return loc + scale * self.g.standard_normal(size, dtype=np.float32).astype(float)

    def poisson(self, expected: Any) -> Any:
        return self.g.poisson(expected)

    def randint(self, *_: int, **__: Any) -> Any:
        return next(self.steps)

    def uniform(self, low: float, high: float, size: Any = None) -> Any:
        if self.name == "fog":
            num = int(np.prod(size))
            drawn, self.flat = self.flat[:num], self.flat[num:]
            return high * drawn.reshape(size)
        if self.name == "elastic_transform":
            return low + (high - low) * self.waiting.pop(0).astype(float)
        return self.g.uniform(low, high)


def peer(checkout: str, data: str, size: int, num: int) -> None:
    file = "create_c/make_cifar_c.py" if size == 32 else "imagenet_c/imagenet_c/corruptions.py"
    text = (
        (Path(checkout) / "ImageNet-C" / file).read_text(encoding="utf-8").split("# /////////////// End Distortions")[0]
    )
    for old, new in RENAMED.items():
        text = text.replace(old, new)
    theirs = types.ModuleType("theirs")
    exec(compile(text, file, "exec"), theirs.__dict__)
    images = pictures(data, size, num)
    digests = [i.to_bytes(2, "little") for i in range(num)]
    print(f"| corruption ({num} pictures of {size} pixels) | severity 1 | 2 | 3 | 4 | 5 |")
    for one in CORRUPTIONS:
        cells = []
        for severity in SEVERITIES:
            made = []
            for image, digest in zip(images, digests, strict=True):
                if one.name != "impulse_noise":  # scikit-image's own generator: only shares can be compared
                    theirs.__dict__["np"] = Fed(one.name, severity, size, digest)
                made.append(np.uint8(np.array(getattr(theirs, one.name)(Image.fromarray(image), severity))))
            ours = corruptions.corrupt(images, digests, one, severity)
            if one.name == "impulse_noise":
                cells.append(
                    f"changed {100 * (ours != images).mean():.2f} and {100 * (np.stack(made) != images).mean():.2f} %"
                )
            else:
                cells.append(f"{np.abs(ours - np.stack(made).astype(float)).mean():.4f}")
        print(f"| {one.name} | {' | '.join(cells)} |", flush=True)


def pictures(data: str, size: int, num: int) -> np.ndarray:
    if data.endswith(".npz"):
        images = np.load(data)["test_images"][:num]
    else:
        files = sorted(Path(data).rglob("*.jpg"))[:num]
        images = np.stack([np.asarray(Image.open(file).convert("RGB").resize((size, size))) for file in files])
    return np.ascontiguousarray(images)


def cost(model: str, data: str) -> None:
    images = np.load(data)["test_images"][:1024]
    digests = [i.to_bytes(2, "little") for i in range(len(images))]
    all_of_it = 0.0
    for one in CORRUPTIONS:
        cells = []
        for severity in SEVERITIES:
            corruptions.corrupt(images[:1], digests[:1], one, severity)
            begun = time.thread_time()
            for i in range(0, len(images), 64):
                corruptions.corrupt(images[i : i + 64], digests[i : i + 64], one, severity)
            cells.append((time.thread_time() - begun) / len(images))
        all_of_it += sum(cells)
        print(f"| {one.name} | {' | '.join(f'{1e6 * cell:.0f}' for cell in cells)} |", flush=True)
    print(f"mean {1e6 * all_of_it / len(CORRUPTIONS) / len(SEVERITIES):.0f} µs of one core a picture")
    predictor = wrn.load(model)
    batch = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    with runtime.threads(1), kernels.threads(1):
        predictor.engine.compute(batch[:64])
        begun = time.process_time()
        predictor.engine.compute(batch)
    print(f"network {1e6 * (time.process_time() - begun) / len(images):.0f} µs, {predictor.engine.reason}")


if __name__ == "__main__":
    what, *words = sys.argv[1:]
    if what == "peer":
        peer(words[0], words[1], int(words[2]), int(words[3]))
    else:
        cost(*words)
