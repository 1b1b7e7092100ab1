"""A step's update, SGD with Nesterov and the running average: our one pass over memory beside torch's ways.

    python benchmarks/update.py [--rounds N]

Milliseconds with two threads, the least of all rounds; in a round each way has three turns, the ways in random order.
"""

import argparse
import random
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from wideresnet import kernels
from wideresnet.model import WideResNetClassifier
from wideresnet.recipes import RECIPES
from wideresnet.training import make_optimizer


def ways(model: WideResNetClassifier) -> dict[str, Callable[[], None]]:
    weights = list(model.parameters())
    averages: dict[Tensor, Tensor] = {weight: weight.detach().clone() for weight in weights}

    def optimizer(**how: bool) -> torch.optim.SGD:
        made = make_optimizer(model, RECIPES["fast"])
        for group in made.param_groups:
            group.update(lr=1e-4, **how)
        return made

    def torchs(made: torch.optim.SGD, share: float) -> None:
        made.step()
        if share:
            torch._foreach_lerp_(list(averages.values()), [weight.detach() for weight in weights], share)

    def ours(made: torch.optim.SGD, share: float) -> None:
        kernels.update(made, averages if share else {}, share)

    found = dict[str, Callable[[], None]]()
    for share, also in ((0.0, ""), (0.001, ", average")):
        for how in ({"foreach": False}, {"foreach": True}, {"fused": True}):
            found[f"{next(iter(how))}={next(iter(how.values()))}{also}"] = partial(torchs, optimizer(**how), share)
        found[f"ours{also}"] = partial(ours, optimizer(), share)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=30)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(2)
    for depth, widen_factor in ((16, 2), (28, 10)):
        torch.manual_seed(0)
        model = WideResNetClassifier(10, depth, widen_factor)
        for weight in model.parameters():
            weight.grad = torch.randn_like(weight) * 1e-3
        timed = ways(model)
        best = dict.fromkeys(timed, float("inf"))
        for _ in range(rounds):
            for name in random.sample(list(timed), len(timed)):
                for _ in range(3):
                    started = time.perf_counter()
                    timed[name]()
                    best[name] = min(best[name], time.perf_counter() - started)
        print(f"wrn_{depth}_{widen_factor}", {name: f"{1000 * seconds:.2f}" for name, seconds in best.items()})


if __name__ == "__main__":
    main()
