"""Real files, damaged at random → the decoder of pictures, or the readers of model files and checkpoints: each must
answer, or refuse in one of our errors, within 5 s and 1 GiB.

python tests/faults/fuzz.py pictures|models SECONDS [SEED]      findings go to ./findings, one file each

Input number n is a function of (what, seed, n): children compute a share of them each, and tell by a shared counter
which they are at; where one dies, hangs or raises, the parent makes that input again and keeps it.
"""

import io
import json
import mmap
import multiprocessing
import os
import random
import resource
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from wideresnet import checkpoint, images, runs
from wideresnet.checkpoint import Card
from wideresnet.errors import WideResNetError
from wideresnet.jobs.writing import saved
from wideresnet.model import WideResNetClassifier
from wideresnet.preprocess import Preprocess
from wideresnet.recipes import find

SHARED = Path(os.environ.get("WRN_SHARED", Path(__file__).parents[3] / "shared"))
SECONDS, MEMORY = 5.0, 1 << 30


# ——— pictures ———


def pictures() -> list[bytes]:
    """One of each kind that is read, small; and the messy ones, where there are."""
    colours = np.random.default_rng(0).integers(0, 256, (19, 23, 4), dtype=np.uint8)
    made, kinds = list[bytes](), ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
    for kind in kinds:
        for mode in ("RGB", "L", "RGBA", "P", "CMYK", "I;16", "1", "LA"):
            content = io.BytesIO()
            image = Image.fromarray(colours)
            image = image.convert("L").convert("I").convert("I;16") if mode == "I;16" else image.convert(mode)
            options: dict[str, Any] = {
                "exif": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
            }
            try:
                image.save(content, kind, **(options if kind in ("PNG", "JPEG", "WEBP") else {}))
            except (OSError, ValueError):  # a kind that has no such mode
                continue
            made.append(content.getvalue())
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "group4"):
        content = io.BytesIO()
        mode = "1" if compression == "group4" else "RGB"
        Image.fromarray(colours).convert(mode).save(content, "TIFF", compression=compression)
        made.append(content.getvalue())
    for kind in ("GIF", "WEBP", "PNG"):
        content, frame = io.BytesIO(), Image.fromarray(colours).convert("RGB")
        frame.save(content, kind, save_all=True, append_images=[frame.rotate(90 * i) for i in range(3)])
        made.append(content.getvalue())
    there = sorted(path for path in (SHARED / "data/messy").rglob("*") if path.is_file())
    return made + [path.read_bytes() for path in there if 0 < path.stat().st_size < 200_000]


def damaged(content: bytes, chance: random.Random, others: list[bytes]) -> bytes:
    """A few changes: bits, bytes, numbers of 2 and 4 bytes, cuts, repetitions, parts of other files."""
    out = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        if not out:
            break
        # Headers are where readers decide.
        at = chance.randrange(min(len(out), 64) if chance.random() < 0.4 else len(out))
        kind = chance.randrange(8)
        if kind == 0:
            out[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            out[at] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
        elif kind in (2, 3):
            number = chance.choice(
                (0, 1, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 65500, 9459, chance.randrange(1 << 31))
            )
            size = 2 if kind == 2 else 4
            out[at : at + size] = (number % (1 << 8 * size)).to_bytes(size, chance.choice(("big", "little")))
        elif kind == 4:
            del out[at : at + chance.choice((1, 4, 100, len(out)))]
        elif kind == 5:
            part = out[at : at + chance.choice((1, 4, 64, 1024))]
            out[at:at] = part * chance.choice((1, 2, 50))
        elif kind == 6:
            other = chance.choice(others)
            start = chance.randrange(len(other))
            out[at : at + chance.choice((0, 16, 256))] = other[start : start + chance.choice((4, 16, 256, 4096))]
        else:
            out[at : at + 8] = bytes(chance.randrange(256) for _ in range(8))
    return bytes(out)


def decode(content: bytes, folder: Path) -> None:
    del folder
    images.decode(content)
    images.size_of(content)


# ——— model files, checkpoints, configs ———


CONFIG: dict[str, Any] = {
    **dict.fromkeys(("data", "arch", "device", "fingerprint"), "x"),
    **{"recipe": find("fast"), "size": 8, "fit": "crop", "in_channels": 3, "mean": None, "std": None, "seed": 0},
    **{"threads": 1, "max_bad": 0, "engine": "torch", "versions": {}},
}


def models() -> list[bytes]:
    """A model file and a checkpoint, small."""
    torch.manual_seed(0)
    model, made = WideResNetClassifier(2, 10, 1), list[bytes]()
    preprocess = Preprocess(size=8, mean=(0.5,) * 3, std=(0.2,) * 3)
    card = Card(architecture=model.architecture, class_names=("a", "b"), preprocess=preprocess)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.safetensors"
        checkpoint.save_model(path, model.state_dict(), card, {"seen": torch.zeros(2, 8, dtype=torch.uint8)})
        made.append(path.read_bytes())
        tensors = {f"model/{key}": value for key, value in model.state_dict().items()}
        checkpoint.save_checkpoint(
            path, tensors, {"epoch": 1, "best_score": 0.5, "rows": [{"epoch": 1}], "config": "d"}
        )
        made.append(path.read_bytes())
    return made


HOSTILE: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 2**31, 2**63, 10**30, 1e308, -0.0, "", "x", "\ud800", "../../x", [], {}, [[]], {"a": {}}),
    *([0] * 1000, {"depth": 6 * 10**6 + 4}, "[" * 5000, 6 * 10**6 + 4, 100_000, 1e-320),
)


def changed(value: Any, chance: random.Random) -> Any:
    """JSON with one value, somewhere, replaced, removed or moved."""
    if isinstance(value, dict) and value and chance.random() < 0.85:
        key = chance.choice(list(value))
        what = chance.randrange(6)
        if what == 0:
            return {k: v for k, v in value.items() if k != key}
        if what == 1:
            return {**value, str(chance.choice(("x", "", "depth", "digest", "__metadata__", "library"))): value[key]}
        return {**value, key: changed(value[key], chance)}
    if isinstance(value, list) and value and chance.random() < 0.8:
        i = chance.randrange(len(value))
        return [*value[:i], changed(value[i], chance), *value[i + chance.randrange(2) :]]
    return chance.choice(HOSTILE)


def hostile(content: bytes, chance: random.Random, others: list[bytes]) -> bytes:
    """A file of safetensors whose parts are changed with care, so that the checks behind the first ones are reached."""
    if chance.random() < 0.3:
        return damaged(content, chance, others)
    length = struct.unpack("<Q", content[:8])[0]
    head, payload = json.loads(content[8 : 8 + length]), content[8 + length :]
    if chance.random() < 0.7:  # the card, or what a checkpoint tells; with a digest that is right
        entry = json.loads(head["__metadata__"]["wideresnet"])
        entry.pop("digest")
        for _ in range(chance.choice((1, 1, 3))):
            entry = changed(entry, chance)
        if isinstance(entry, dict):
            entry = {**entry, "digest": _digest(head, payload, entry)}
        text = json.dumps(entry)
        if chance.random() < 0.03:
            text = "[" * 200_000
        head["__metadata__"] = {"wideresnet": text}
    else:
        head = changed(head, chance)
    text = json.dumps(head)
    if chance.random() < 0.1 and isinstance(head, dict) and head:  # a name twice
        text = text[:-1] + ", " + json.dumps(head)[1:]
    encoded = text.encode("utf-8", "surrogatepass")
    told = len(encoded) if chance.random() < 0.9 else chance.choice((0, 7, 2**63, 2**40, 10**8, len(encoded) + 1))
    return struct.pack("<Q", told) + encoded + payload


def changed_card(content: bytes, changes: dict[str, Any], text: str | None = None) -> bytes:
    """A model file that says otherwise what is in `changes` (fields of fields too), or whose entry is `text`; its
    digest is right."""
    length = struct.unpack("<Q", content[:8])[0]
    head, payload = json.loads(content[8 : 8 + length]), content[8 + length :]
    entry = json.loads(head["__metadata__"]["wideresnet"])
    del entry["digest"]
    for name, value in changes.items():
        deeper = isinstance(value, dict)
        entry[name] = {**entry[name], **value} if deeper else value
    entry["digest"] = _digest(head, payload, entry)
    head["__metadata__"] = {"wideresnet": json.dumps(entry) if text is None else text}
    encoded = json.dumps(head).encode()
    return struct.pack("<Q", len(encoded)) + encoded + payload


def _digest(head: dict[str, Any], payload: bytes, entry: dict[str, Any]) -> str:
    tensors = {}
    for name, told in head.items():
        if name != "__metadata__":
            start, end = told["data_offsets"]
            kind = {"F32": torch.float32, "I64": torch.int64, "U8": torch.uint8}[told["dtype"]]
            tensors[name] = torch.frombuffer(bytearray(payload[start:end]), dtype=kind).reshape(told["shape"])
    try:
        return checkpoint._digest(tensors, entry)
    except (UnicodeEncodeError, ValueError):
        return ""


def read(content: bytes, folder: Path) -> None:
    path = folder / "x.safetensors"
    path.write_bytes(content)
    config = runs.Config(**CONFIG)
    (folder / runs.CHECKPOINT).write_bytes(content)
    readers: tuple[Callable[[], object], ...] = (
        lambda: checkpoint.load_model(path),
        lambda: checkpoint.read_card(path),
        lambda: checkpoint.load_checkpoint(path),
        lambda: saved(folder, config, lambda _: None),
    )
    for reader in readers:
        try:
            reader()
        except WideResNetError as error:
            if "\n" in str(error).strip():
                raise ValueError(f"not one line: {error}") from error


# ——— the loop ———

Target = tuple[Callable[[], list[bytes]], Callable[[bytes, random.Random, list[bytes]], bytes], Callable[..., None]]
TARGETS: dict[str, Target] = {"pictures": (pictures, damaged, decode), "models": (models, hostile, read)}


def made(target: str, seed: int, number: int, real: list[bytes]) -> bytes:
    """Input number `number`."""
    chance = random.Random(f"{target} {seed} {number}")
    return TARGETS[target][1](chance.choice(real), chance, real)


def outcome(target: str, content: bytes, folder: Path) -> str:
    """ "" where it is answered or refused as it should be; else what is wrong."""
    started = time.perf_counter()
    try:
        TARGETS[target][2](content, folder)
    except WideResNetError as error:
        if not str(error):
            return f"says nothing: {error!r}"
    except BaseException:
        return traceback.format_exc()
    spent = time.perf_counter() - started
    return f"took {spent:.1f} s" if spent > SECONDS else ""


def _child(target: str, seed: int, start: int, step: int, now: mmap.mmap, told: Any) -> None:
    torch.set_num_threads(1)
    page = resource.getpagesize()
    used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[5]) * page
    resource.setrlimit(resource.RLIMIT_DATA, (used + MEMORY,) * 2)
    real = TARGETS[target][0]()
    with tempfile.TemporaryDirectory() as folder:
        number = start
        while True:
            now[:16] = struct.pack("<Qd", number, time.monotonic())
            if wrong := outcome(target, made(target, seed, number, real), Path(folder)):
                told.put((number, wrong))
            number += step


def fuzz(target: str, seconds: float, seed: int, keep: Path) -> tuple[int, int]:
    """(inputs, findings)."""
    context, real, step = multiprocessing.get_context("fork"), TARGETS[target][0](), os.cpu_count() or 1
    told: Any = context.Queue()
    end, findings, counters = time.monotonic() + seconds, 0, [mmap.mmap(-1, 16) for _ in range(step)]

    def begin(i: int, start: int) -> Any:
        counters[i][:16] = struct.pack("<Qd", start, time.monotonic())
        process = context.Process(target=_child, args=(target, seed, start, step, counters[i], told), daemon=True)
        process.start()
        return process

    def found(number: int, wrong: str) -> None:
        keep.mkdir(exist_ok=True)
        content = made(target, seed, number, real)
        name = f"{target}-{seed}-{number}"
        (keep / name).write_bytes(content)
        (keep / f"{name}.txt").write_text(wrong, encoding="utf-8", errors="backslashreplace")
        print(f"{name}: {wrong.strip().splitlines()[-1]}", flush=True)

    children = [begin(i, i) for i in range(step)]
    while time.monotonic() < end:
        time.sleep(0.2)
        while not told.empty():
            findings += 1
            found(*told.get())
        for i, child in enumerate(children):
            number, since = struct.unpack("<Qd", counters[i][:16])
            hangs = time.monotonic() - since > 2 * SECONDS
            if hangs:
                child.kill()
                child.join()
            if not child.is_alive():
                findings += 1
                found(number, "hangs" if hangs else f"ended the process: {child.exitcode}")
                children[i] = begin(i, number + step)
    for child in children:
        child.kill()
    return sum(struct.unpack("<Qd", counter[:16])[0] // step for counter in counters), findings


if __name__ == "__main__":
    what, seconds = sys.argv[1], float(sys.argv[2])
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else 0
    inputs, findings = fuzz(what, seconds, seed, Path("findings"))
    print(f"{what}, seed {seed}, {seconds:.0f} s: {inputs:,} inputs, {findings} findings")
    sys.exit(findings > 0)
