"""A WideResNetClassifier, computed by our own kernels on a CPU where they can: the same call, the same answer."""

import math
import operator
import os
import threading
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from wideresnet import runtime
from wideresnet.kernels import library, plan
from wideresnet.kernels.gradients import Trainer, modal
from wideresnet.kernels.network import Network
from wideresnet.model import WideResNetClassifier

T = TypeVar("T", Tensor, tuple[Tensor, Tensor])
_ATTRIBUTES = {"activation", "eps", "p", *(name for names in plan.FIXED.values() for name in names)}
_training, _version = operator.attrgetter("training"), operator.attrgetter("_version")
BOUND = 1e-5  # of the logits' range: what F(4×4) may lose against a convolution without transforms


def why_not(model: nn.Module) -> str | None:
    """Why the kernels cannot compute `model` at all, or None: not built, another network, another device or dtype."""
    if isinstance(loaded := library.load(), str):
        return f"our kernels are {loaded}"
    if type(model) is not WideResNetClassifier:  # a subclass may compute otherwise
        return f"the model is a {type(model).__name__}, not a WideResNetClassifier"
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        unfit = (
            (tensor.device.type != "cpu", f"on {tensor.device}, not on the CPU"),
            (tensor.is_floating_point() and tensor.dtype != torch.float32, f"{tensor.dtype}, not float32"),
            (tensor.is_inference(), "made in inference mode, where a change could not be noticed"),
        )
        if reason := next((why for wrong, why in unfit if wrong), None):
            return f"{name} is {reason}"
    return plan.misfit(model)


def accelerate(model: nn.Module) -> nn.Module:
    """`model` with the same call, computed by our own kernels on the CPU where they can; else `model` does it itself.

    In training mode, or where gradients are wanted, forward and backward pass are the kernels' too: gradients arrive in
    the same parameters, BN's buffers change as torch changes them, dropout draws from torch's generator (other numbers
    than torch's own). There are no second derivatives.

    For judging, weights are packed at the first call, and anew when one has changed: an optimiser's step,
    `load_state_dict`, a pass in training mode. Not noticed is a write that torch keeps no count of (through
    `tensor.data`, NumPy or torch.distributed) and that leaves the stem, the last BN and `fc` as they were. A call on
    another device or dtype, under autocast, or with hooks on inner modules is `model`'s own; so is everything if the
    kernels are not there or do not know the network, which is said once on stderr. The module holds `model`, whose
    keys in its state dict begin with "model.". How exact: docs/kernels.md.
    """
    if isinstance(model, Accelerated):
        return model
    if reason := why_not(model):
        runtime.say_once(f"kernels: {reason}; torch computes")
        return model
    assert isinstance(model, WideResNetClassifier)
    return Accelerated(model)


def _untrainable(model: WideResNetClassifier) -> str | None:
    """Why the kernels cannot train `model`, though they compute it."""
    for name, parameter in model.named_parameters():
        if not parameter.is_contiguous():
            return f"{name} is not contiguous (`model.to(memory_format=torch.contiguous_format)` makes it so)"
    return None


class _Seen:
    """A model as it was: its modules, and each weight's place and version. Asked at every call, so in C's loops."""

    def __init__(self, model: nn.Module) -> None:
        modules = list(model.modules())
        self._owners: list[dict[str, Any]] = []
        for module in modules:
            self._owners += (module._parameters, module._buffers, module._modules)
        places = [(each, name) for each in self._owners for name in each]
        places += [(vars(m), name) for m in modules for name in ("forward", *_ATTRIBUTES & vars(m).keys())]
        self._members, self._names = [each for each, _ in places], [name for _, name in places]
        self._things = [each.get(name) for each, name in places]
        self._tensors = [thing for thing in self._things if isinstance(thing, Tensor)]
        self._state = self._now()
        # Fused optimisers and torch.distributed write without a count; whatever they do, they move one of these. Their
        # bits are compared: a NaN is no other than itself.
        named = dict(model.named_modules())
        sampled = [named[name] for name in ("backbone.stem.0", "backbone.bn", "fc") if name in named]
        weights = [p.detach() for m in sampled for p in m.parameters(recurse=False)]
        bits = [p.view(torch.int32) for p in weights if p.dtype == torch.float32 and p.device.type == "cpu"]
        self._samples = [(each, each.clone()) for each in bits]

    def parts_changed(self) -> bool:
        """Another module, parameter or buffer, or one more, whatever its values."""
        there = map(dict.get, self._members, self._names)
        return not all(map(operator.is_, there, self._things)) or list(map(len, self._owners)) != self._state[0]

    def _now(self) -> tuple[list[int], ...]:
        lengths = list(map(len, self._owners))  # something may have been added
        return lengths, list(map(_version, self._tensors)), self.places()

    def places(self) -> list[int]:
        """Where the weights lie: `tensor.data` may be replaced, and their layout with it, without another tensor."""
        return list(map(Tensor.data_ptr, self._tensors))

    def weights_changed(self) -> bool:
        return self._state != self._now() or not all(torch.equal(now, then) for now, then in self._samples)


class Accelerated(nn.Module):
    """What `accelerate` makes. `model` is the network itself, and shares its weights and its mode."""

    def __init__(self, model: WideResNetClassifier) -> None:
        super().__init__()
        self.model = model
        self.training = model.training  # `train` would set the model's parts, which may be in different modes
        self._unlock()
        self._forget()

    def _forget(self) -> None:
        self._forget_answers()
        self._seen: _Seen | None = None
        self._trainer: Trainer | None = None
        self._places: list[int] | None = None  # of the weights, for which there is a trainer or a reason why not
        self._untrained: str | None = None
        self._parts = list(self.model.modules())
        self._modal = modal(self.model)
        self._hooks = [
            hooks
            for m in self._parts
            for hooks in (m._forward_hooks, m._forward_pre_hooks, m._backward_hooks, m._backward_pre_hooks)
        ]

    def _forget_answers(self) -> None:
        self._networks: dict[plan.Algorithm, Network] = {}
        self._judged = False  # whether it is known what computes, `_chosen` or torch
        self._chosen: plan.Algorithm = "direct"
        self._misfit: str | None = None  # why torch computes

    def _unlock(self) -> None:
        self._lock = threading.Lock()
        _alive.add(self)

    def __getstate__(self) -> dict[str, Any]:
        """Packed weights are not copied and not pickled: they are made anew."""
        made = {"_lock", "_networks", "_judged", "_chosen", "_misfit", "_seen", "_parts", "_hooks"}
        made |= {"_trainer", "_places", "_untrained", "_modal"}
        return {name: value for name, value in self.__dict__.items() if name not in made}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._unlock()
        self._forget()

    def forward(self, x: Tensor) -> Tensor:
        """x [N, in_channels, H, W] → logits [N, num_classes], as the model's own forward."""
        if torch.compiler.is_compiling():
            return self.model(x)  # type: ignore[no-any-return]
        fits, reason = self._fits(x)
        if fits and reason is None:
            self._look()
            if any(self._hooks):
                logits, reason = None, "the model has hooks"
            elif self._learns(x):
                logits, reason = self._train(x)
            else:
                with self._lock, torch.no_grad():
                    logits, reason = self._answer(x, Network.__call__)
            if logits is not None:
                return logits
        if reason is not None:
            runtime.say_once(f"kernels: {reason}; torch computes")
        return self.model(x)  # type: ignore[no-any-return]

    @torch.no_grad()
    def embed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x as `forward` takes it → its logits, and the pooled features [N, 64k] that they are computed from; no
        gradients. It costs no more than a call, and packs no weights again."""
        fits, reason = self._fits(x)
        if fits and reason is None:
            self._look()
            if not any(self._hooks) and not any(map(_training, self._modal)):
                with self._lock:
                    both, reason = self._answer(x, Network.embed)
                if both is not None:
                    return both
        if reason is not None:
            runtime.say_once(f"kernels: {reason}; torch computes")
        pooled = self.model.pool(self.model.backbone(x)).flatten(1)
        return self.model.classify(pooled), pooled

    def _fits(self, x: Tensor) -> tuple[bool, str | None]:
        """Whether x is what the model takes, of which else the model has its own word; and why it must do so itself."""
        fits = x.dim() == 4 and x.shape[1] == self.model.backbone.in_channels and x.numel() > 0
        return fits, self._not_now(x) if fits else None

    def _not_now(self, x: Tensor) -> str | None:
        """Why this call is the model's own."""
        plain = (
            type(x) in (Tensor, nn.Parameter)
            and x.layout == torch.strided
            and not torch._C._functorch.is_functorch_wrapped_tensor(x)
        )
        unfit = (
            (x.dtype != torch.float32 or x.device.type != "cpu", f"an input of {x.dtype} on {x.device.type}"),
            (not plain, "the input is not a plain tensor"),
            (torch.autograd.forward_ad._current_level >= 0, "derivatives are carried forward"),
            (torch.is_autocast_enabled("cpu"), "autocast is on"),
            (torch.jit.is_tracing(), "the model is being traced"),  # type: ignore[attr-defined,no-untyped-call]
            (torch._C._functorch.peek_interpreter_stack() is not None, "torch.func transforms the call"),
        )
        return next((why for wrong, why in unfit if wrong), None)

    def _look(self) -> None:
        """At the parts that are there now: it is they whose modes and hooks are asked for."""
        seen = self._seen
        if seen is None or seen.parts_changed():
            with self._lock:
                if self._seen is seen:  # else another thread has looked meanwhile
                    self._look_anew()

    def _look_anew(self) -> _Seen:
        self._forget()
        self._seen = _Seen(self.model)
        return self._seen

    def _learns(self, x: Tensor) -> bool:
        """A BN or a dropout is in training mode, or a gradient is wanted."""
        if any(map(_training, self._modal)):
            return True
        return torch.is_grad_enabled() and (x.requires_grad or any(p.requires_grad for p in self.model.parameters()))

    def _train(self, x: Tensor) -> tuple[Tensor | None, str | None]:
        """Logits with what their backward pass needs, or why the model must compute them."""
        with self._lock:
            seen = self._seen or self._look_anew()
            if (places := seen.places()) != self._places:
                self._places, self._trainer = places, None
                self._untrained = why_not(self.model) or _untrainable(self.model)
                loaded = library.load()
                if self._untrained is None and isinstance(loaded, library.Library):
                    self._trainer = Trainer(self.model, loaded, library.isa())
            if self._trainer is None:
                return None, self._untrained
            n, _, height, width = x.shape
            if n * -(-height // 4) * -(-width // 4) == 1:
                return None, None  # one value a channel has no variance: torch's BN has its own word for that
            pooled = self._trainer(x)
        if pooled is None:
            return None, "a value that is not finite"
        return self.model.classify(pooled), None

    def _answer(self, x: Tensor, compute: Callable[[Network, Tensor, int], T]) -> tuple[T | None, str | None]:
        """What `compute` makes of the packed network: logits, or what begins with them; or why the model must do it."""
        threads = library.num_threads()
        if self._seen is None:
            self._look_anew()
        elif self._seen.weights_changed():
            self._forget_answers()
            self._seen = _Seen(self.model)  # first: what is changed meanwhile is noticed
        if not self._judged:
            self._judged, self._misfit = True, why_not(self.model)
            if self._misfit is None:
                self._chosen = self._within_bound(threads)
        if self._misfit is not None:
            return None, self._misfit
        answer = compute(self._network(self._chosen), x, threads)
        logits = answer if isinstance(answer, Tensor) else answer[0]
        if self._chosen != "direct" and not math.isfinite(logits.sum()):
            # Winograd's transforms overflow some 100 times before the network itself does: what is not finite here may
            # be there.
            answer = compute(self._network("direct"), x, threads)
        return answer, None

    def _network(self, algorithm: plan.Algorithm) -> Network:
        if algorithm not in self._networks:
            self._networks[algorithm] = self._made(algorithm)
        return self._networks[algorithm]

    def _made(self, algorithm: plan.Algorithm) -> Network:
        loaded = library.load()
        assert isinstance(loaded, library.Library)
        return Network(plan.lower(self.model), loaded, library.isa(), algorithm)

    def _within_bound(self, threads: int) -> plan.Algorithm:
        """The fastest algorithm that answers to noise as a convolution without transforms does, within BOUND."""
        random = torch.Generator().manual_seed(0)
        noise = torch.randn(2, self.model.backbone.in_channels, 16, 16, generator=random)
        expected = self._made("direct")(noise, threads)
        algorithms: tuple[plan.Algorithm, ...] = ("fast", "exact")
        for algorithm in algorithms if expected.isfinite().all() else ():
            answer = self._made(algorithm)(noise, threads)  # what it packs for the noise's shape is not kept
            if (answer - expected).abs().max() <= BOUND * expected.abs().max():  # NaN fails
                return algorithm
            runtime.say_once(f"kernels: {algorithm} algorithms lose too much on this model; a slower one computes")
        return "direct"


# A child forked while another thread was inside would wait for that thread's lock for ever.
_alive: weakref.WeakSet[Accelerated] = weakref.WeakSet()


def _unlock_all() -> None:
    for each in list(_alive):
        each._unlock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock_all)
