"""Whole processes of benchmarks/inference.py: how much memory a forward pass takes, and how fast `wrn predict` is.

Imports nothing of size before it is known which engine a process is for: its memory is measured.
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wideresnet.engines import Engine
    from wideresnet.preprocess import Preprocess

NETWORK, BATCH = "wrn_28_10", 16
MEMORY = ("torch", "ours", "onnxruntime")
PREDICT: dict[str, tuple[str, ...]] = {"ours": (), "torch": ("--engine", "torch"), "onnxruntime": ()}  # further options


def memory() -> None:
    """Prints the Markdown rows of docs/numbers.md: MB resident, each engine in a process that has it alone."""
    import torch
    from inference_engines import export_onnx, network

    print(f"{NETWORK}, batch {BATCH}, 32×32; MB resident")
    print("| engine | imported | + model | peak | peak − imported |\n| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(network(NETWORK), torch.zeros(BATCH, 3, 32, 32), path)
        for engine in MEMORY:
            got = child("--memory", engine, str(path))[1]
            cells = [f"{got[name] / 1e6:,.0f}" for name in ("imported", "loaded", "peak")]
            print(f"| {engine} | {' | '.join(cells)} | {(got['peak'] - got['imported']) / 1e6:,.0f} |", flush=True)


def child(*words: str, script: str = __file__) -> tuple[str, dict[str, Any]]:
    """What such a process writes to standard output, and the JSON in the last line to standard error."""
    done = subprocess.run([sys.executable, script, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} failed:\n{done.stderr}")
    return done.stdout, json.loads(done.stderr.splitlines()[-1])


def resident(what: str) -> int:
    """Bytes: VmRSS now, VmHWM at most; not ru_maxrss, which is never below that of the process that started this."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition(f"{what}:")[2].split()[0]) * 1024


def measure_memory(engine: str, path: Path) -> None:
    """Weights, then three forward passes: the first packs and plans, in some engines."""
    import numpy as np

    x = np.random.default_rng(0).standard_normal((BATCH, 3, 32, 32), dtype=np.float32)
    if engine == "onnxruntime":
        import onnxruntime

        imported = reset_peak()
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        loaded = resident("VmRSS")
        for _ in range(3):
            session.run(None, {"x": x})
    else:
        import torch
        from inference_engines import accelerated, network

        torch.nn.functional.conv2d(torch.zeros(1, 1, 3, 3), torch.zeros(1, 1, 3, 3))  # sets up what it computes with
        imported = reset_peak()
        model = network(NETWORK)
        if engine == "torch":
            model = model.to(memory_format=torch.channels_last)
        compute, images = accelerated(model) if engine == "ours" else model, torch.from_numpy(x)
        loaded = resident("VmRSS")
        with torch.inference_mode():
            for _ in range(3):
                compute(images if engine == "ours" else images.contiguous(memory_format=torch.channels_last))
    result = {"imported": imported, "loaded": loaded, "peak": resident("VmHWM")}
    print(json.dumps(result), file=sys.stderr)


def reset_peak() -> int:
    """From here on the peak counts; returns bytes resident now."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return resident("VmRSS")


def predict(words: list[str]) -> None:
    """`wrn predict MODEL FOLDER` by each engine in turn, images/s: of the whole process, and from the moment that the
    model is loaded. ONNX Runtime computes behind the very same command: what reads, resizes and writes is one code."""
    parser = argparse.ArgumentParser(prog="inference.py predict", description=predict.__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("folder", type=Path, help="of pictures; where there is none, it is filled with --cifar10's")
    parser.add_argument("--cifar10", type=Path, help="an .npz as `wrn train` takes it, or the sheets: its test part")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args(words)
    model, folder = arguments.model, arguments.folder
    if not folder.exists():
        if arguments.cifar10 is None:
            parser.error(f"{folder} does not exist; --cifar10 FILE.npz fills it")
        write_pictures(arguments.cifar10, folder)
    whole_s: dict[str, list[float]] = {name: [] for name in PREDICT}
    inside_s: dict[str, list[float]] = {name: [] for name in PREDICT}
    labels: dict[str, list[str]] = {}
    computed: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "model.onnx"
        export(model, path)
        for _ in range(arguments.rounds):
            for name in PREDICT:
                started = time.perf_counter()
                out, said = child("--predict", name, str(path), str(model), str(folder))
                whole_s[name].append(time.perf_counter() - started)
                inside_s[name].append(said["seconds"])
                labels[name] = [row["label"] for row in csv.DictReader(out.splitlines())]
                computed[name] = said["engine"]
    num = len(labels["ours"])
    print(f"{num:,} pictures; images/s, best (median) of {arguments.rounds}, alternating")
    print("| engine | whole process | without its start | other answers than torch's |\n| --- | --- | --- | --- |")
    for name in PREDICT:
        rates = [
            f"{num / min(took):,.0f} ({num / statistics.median(took):,.0f})" for took in (whole_s[name], inside_s[name])
        ]
        others = sum(one != other for one, other in zip(labels[name], labels["torch"], strict=True))
        print(f"| {name} ({computed[name]}) | {' | '.join(rates)} | {others} |")


def write_pictures(source: Path, folder: Path) -> None:
    from ingredients import cifar10
    from PIL import Image

    folder.mkdir(parents=True)
    for number, image in enumerate(cifar10(source)["test_images"]):
        Image.fromarray(image).save(folder / f"{number:05d}.png")


def export(model: Path, path: Path) -> None:
    """The network of a model file as ONNX, for batches of any size: logits and embeddings, as `Engine.embed` has
    them."""
    import torch
    from inference_engines import export_onnx

    from wideresnet.checkpoint import load_model

    file = load_model(model)
    preprocess = file.card.preprocess
    x = preprocess.normalise(torch.zeros(2, preprocess.channels, preprocess.size, preprocess.size, dtype=torch.uint8))

    class Both(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model: Any = file.model.eval()

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            pooled = self.model.pool(self.model.backbone(x)).flatten(1)
            return self.model.classify(pooled), pooled

    export_onnx(Both(), x, path, dynamic_axes={"x": {0: "n"}})


def run_predict(name: str, path: Path, model: str, folder: str) -> int:
    """`wrn predict`, in this process; says on standard error how long it took from the choice of an engine on."""
    from wideresnet import engines
    from wideresnet.cli import run

    chosen, ready = [], []
    original = engines.choose

    def choose(*given: Any, **options: Any) -> "Engine":
        engine = onnx_runtime(path, given[1]) if name == "onnxruntime" else original(*given, **options)
        chosen.append(engine.name)
        ready.append(time.perf_counter())
        return engine

    engines.choose = choose
    code = run(["predict", model, folder, "--format", "csv", *PREDICT[name]])
    if code == 0:
        said = {"seconds": time.perf_counter() - ready[0], "engine": chosen[0]}
        print(json.dumps(said), file=sys.stderr)
    return code


def onnx_runtime(path: Path, preprocess: "Preprocess") -> "Engine":
    import onnxruntime
    import torch

    from wideresnet.engines import Engine

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def embed(images: Any) -> tuple[torch.Tensor, torch.Tensor]:
        logits, embeddings = session.run(None, {"x": preprocess.normalise(images).numpy()})
        return torch.from_numpy(logits), torch.from_numpy(embeddings)

    return Engine("onnxruntime", "", lambda images: embed(images)[0], embed)


if __name__ == "__main__":
    if sys.argv[1] == "--memory":
        measure_memory(sys.argv[2], Path(sys.argv[3]))
    else:
        code = run_predict(sys.argv[2], Path(sys.argv[3]), sys.argv[4], sys.argv[5])
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # as threads of ONNX Runtime may take their time to end
