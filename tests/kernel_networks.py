"""What the tests of the kernels share: the library, or the reason to skip; networks that are not trivial; errors."""

import copy
import os
from typing import Any, get_args

import pytest
import torch
from test_model import lively
from torch import Tensor, nn

from wideresnet import kernels
from wideresnet.kernels import library, plan
from wideresnet.kernels.accelerated import Accelerated
from wideresnet.kernels.library import Library
from wideresnet.kernels.network import Network
from wideresnet.kernels.plan import Algorithm
from wideresnet.model import WideResNetClassifier

LOADED = library.load()
if isinstance(LOADED, str):
    if os.environ.get("CI"):
        pytest.fail(f"our kernels are {LOADED}; CI must have them", pytrace=False)
    pytest.skip(f"our kernels are {LOADED}", allow_module_level=True)
LIBRARY: Library = LOADED
BEST = next(iter(LIBRARY.isas))
ALGORITHMS = get_args(Algorithm)
# Of the logits' range, against float64: the package's promise for fast, a third of it for the others. 1,500 random
# networks stayed within, but for some of one or two classes, whose logits may cancel.
BOUNDS: dict[str, float] = {"fast": 1e-5, "exact": 3e-6, "direct": 3e-6}
RELU = plan.Activation("relu")


def wrn(
    depth: int = 10, widen_factor: int = 1, num_classes: int = 10, seed: int = 0, **options: Any
) -> WideResNetClassifier:
    """In eval mode, with statistics, scales and biases as after training."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = WideResNetClassifier(num_classes, depth, widen_factor, **options)
        for name, value in model.named_parameters():
            if name.endswith("bias"):
                nn.init.uniform_(value, -0.3, 0.3)
    return lively(model, seed).eval()  # type: ignore[return-value]


def accelerated(model: nn.Module) -> Accelerated:
    found = kernels.accelerate(model)
    assert isinstance(found, Accelerated)
    return found


def made(model: WideResNetClassifier, isa: str = BEST, algorithm: Algorithm = "fast") -> Network:
    return Network(plan.lower(model), LIBRARY, isa, algorithm)


def exactly(model: WideResNetClassifier, x: Tensor) -> Tensor:
    with torch.no_grad():
        return copy.deepcopy(model).double()(x.double())  # type: ignore[no-any-return]


def error(found: Tensor, expected: Tensor) -> float:
    """The largest, of the range of what is expected."""
    return ((found.double() - expected).abs().max() / expected.abs().max()).item()
