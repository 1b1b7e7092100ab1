"""The engines that benchmarks/inference.py compares: a network and its input → a call that answers.

Each is set up as its own documentation advises for float32 on a CPU, with the given number of threads.
"""

import subprocess
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wideresnet.kernels import Accelerated, accelerate, why_not
from wideresnet.model import WideResNetClassifier

warnings.filterwarnings("ignore")  # what tracing and exporting have to say

PEERS = ("onnxruntime", "openvino", "ncnn", "pnnx", "onnx")  # packages beyond ours
Answer = Callable[[], Any]  # logits [N, 10], a tensor or an array


def network(name: str) -> WideResNetClassifier:
    """wrn_DEPTH_WIDTH in eval mode, always the same weights; BN with statistics as a trained network has them, neither
    0 nor 1, so that nobody folds it away for nothing."""
    _, depth, widen_factor = name.split("_")
    torch.manual_seed(0)
    model = WideResNetClassifier(10, int(depth), int(widen_factor)).eval()
    for norm in (module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)):
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.normal_(0, 0.3)
        norm.running_var.uniform_(0.5, 1.5)
        norm.weight.data.uniform_(0.5, 1.2)
        norm.bias.data.normal_(0, 0.2)
    return model


def accelerated(model: WideResNetClassifier) -> Accelerated:
    fast = accelerate(model)
    if not isinstance(fast, Accelerated):
        raise SystemExit(f"there is nothing of ours to measure: {why_not(model)}")
    return fast


def ours(model: WideResNetClassifier, x: Tensor, threads: int, folder: Path) -> Answer:  # noqa: ARG001
    fast = accelerated(model)
    return lambda: fast(x)


def eager(model: WideResNetClassifier, x: Tensor, threads: int, folder: Path) -> Answer:  # noqa: ARG001
    model, x = model.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)
    return lambda: model(x)


def compiled(model: WideResNetClassifier, x: Tensor, threads: int, folder: Path) -> Answer:  # noqa: ARG001
    """Channels last here too: 1 or 2 % faster than NCHW."""
    import torch._inductor.config

    torch._inductor.config.freezing = True
    model, x = model.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)
    fast = torch.compile(model)
    return lambda: fast(x)


def export_onnx(model: torch.nn.Module, x: Tensor, path: Path, **options: Any) -> None:
    torch.onnx.export(model, (x,), str(path), dynamo=False, opset_version=17, input_names=["x"], **options)


def onnx_runtime(model: WideResNetClassifier, x: Tensor, threads: int, folder: Path) -> Answer:
    import onnxruntime

    path = folder / "onnxruntime.onnx"
    export_onnx(model, x, path)  # of this very shape: none is faster with another
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    inputs = {"x": x.numpy()}
    return lambda: session.run(None, inputs)[0]


def openvino(model: WideResNetClassifier, x: Tensor, threads: int, folder: Path) -> Answer:
    import openvino as ov

    path = folder / "openvino.onnx"
    export_onnx(model, x, path)
    # Where the processor has bfloat16, OpenVINO computes with that unless it is told not to.
    asked = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    request = ov.Core().compile_model(str(path), "CPU", asked).create_infer_request()
    array = x.numpy()
    return lambda: request.infer([array], share_inputs=True, share_outputs=True)[0]


def ncnn(model: WideResNetClassifier, x: Tensor, threads: int, folder: Path) -> Answer:
    """It knows no batches: pictures one after the other, each with all threads, or as many at a time as threads, each
    with one; whichever is faster here, which is tried once."""
    import ncnn as engine
    import numpy as np
    import pnnx

    traced = torch.jit.trace(model, x[:1])
    traced.save(str(folder / "ncnn.pt"))
    shape = f"inputshape=[1,{','.join(map(str, x.shape[1:]))}]f32"
    subprocess.run([pnnx.EXEC_PATH, "ncnn.pt", shape, "fp16=0"], cwd=folder, check=True, capture_output=True)

    def loaded(num_threads: int) -> Any:
        net = engine.Net()
        net.opt.num_threads = num_threads  # packed layout and Winograd are on by default
        # Halves would be other digits than float32's.
        net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
        net.opt.use_bf16_packed = net.opt.use_bf16_storage = False
        net.load_param(str(folder / "ncnn.ncnn.param"))
        net.load_model(str(folder / "ncnn.ncnn.bin"))
        return net

    def one(net: Any, image: Any) -> Any:
        extractor = net.create_extractor()
        extractor.input("in0", engine.Mat(image))
        return np.array(extractor.extract("out0")[1])

    images, net = list(x.numpy()), loaded(threads)
    ways: list[Answer] = [lambda: np.stack([one(net, image) for image in images])]
    if len(images) > 1 and threads > 1:
        single, pool = loaded(1), ThreadPoolExecutor(threads)
        ways.append(lambda: np.stack(list(pool.map(one, [single] * len(images), images))))
    return min(ways, key=_seconds)


def _seconds(answer: Answer) -> float:
    answer()
    started = time.perf_counter()
    answer()
    return time.perf_counter() - started


ENGINES: dict[str, Callable[[WideResNetClassifier, Tensor, int, Path], Answer]] = {
    "ours": ours,
    "torch": eager,
    "torch.compile": compiled,
    "ONNX Runtime": onnx_runtime,
    "OpenVINO": openvino,
    "ncnn": ncnn,
}
