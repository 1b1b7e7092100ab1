"""Networks of torchvision and timm, which are not Wide ResNets of the paper: their names, the networks, and the weights
that the libraries publish. The network is touched with `download` alone."""

import difflib
import logging
import pickle
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from wideresnet.errors import ModelFileError, UsageError, missing_extra, nearest

USUAL_SIZE = 224  # of ImageNet's networks: where a library does not say what its weights were trained on


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """What a library publishes: the network with its weights, the file they lie in, its classes, and how pictures were
    prepared."""

    model: nn.Module
    file: Path
    class_names: tuple[str, ...]
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Library:
    """How one is asked. `check` raises ValueError on an unknown name."""

    check: Callable[[str], None]
    build: Callable[[str, int, int], nn.Module]  # name, classes, channels
    size: Callable[[str], int]  # that its weights were trained on
    weights: Callable[[str, bool], Weights]  # name, download


def named(arch: str) -> tuple[str, str] | None:
    """ "timm:resnet18" → ("timm", "resnet18"), checked; None where no library is named. Raises ValueError on a library
    or a name that is not there, with the nearest; UsageError where the library is not installed."""
    library, colon, name = arch.partition(":")
    if not colon:
        return None
    if library not in LIBRARIES:
        raise ValueError(f"{library!r} is no library that networks are taken from{nearest(library, LIBRARIES)}")
    LIBRARIES[library].check(name)
    return library, name


def build(*, library: str, name: str, num_classes: int, in_channels: int) -> nn.Module:
    """Raises ValueError as `named`."""
    named(f"{library}:{name}")
    return LIBRARIES[library].build(name, num_classes, in_channels)


def versions(arch: str) -> dict[str, str]:
    """Of what the numbers depend on besides `runtime.versions`."""
    return {"timm": metadata.version("timm")} if arch.startswith("timm:") else {}


def default_size(arch: str) -> int:
    """Side in pixels of the pictures that the library's own weights were trained on."""
    library, _, name = arch.partition(":")
    return LIBRARIES[library].size(name)


def weights(arch: str, *, download: bool) -> Weights:
    """Raises UsageError if they are not on this machine and `download` is not given, or cannot be had; ModelFileError
    if their file is damaged."""
    library, _, name = arch.partition(":")
    return LIBRARIES[library].weights(name, download)


def _check(name: str, names: Iterable[str], where: str) -> None:
    names = list(names)
    if name not in names:
        close = difflib.get_close_matches(name, names, n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else f"see {where}"
        raise ValueError(f"no network {name!r} there; {hint}")


def _read(file: Path) -> dict[str, Tensor]:
    """Tensors alone: no code that a pickle may hold is run."""
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        state: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
        return state
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise ModelFileError(f"{file}: damaged, or no weights ({reason}); remove it, and add --download") from error


def _fitted(model: nn.Module, state: dict[str, Tensor], file: Path) -> nn.Module:
    try:
        model.load_state_dict(state)
    except (RuntimeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelFileError(f"{file}: not the weights of this network: {reason}") from error
    return model


def _cached(url: str, what: str, download: bool) -> Path:
    """The file of `url` in torch's own cache."""
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
    if not file.exists():
        if not download:
            raise UsageError(f"--pretrained: {what} are not in {file.parent} ({file.name}); add --download")
        prefix = found[1] if (found := re.search(r"-([a-f0-9]{8,})\.", file.name)) else None
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(file), prefix, progress=False)
        except (OSError, RuntimeError) as error:  # URLError is an OSError; a wrong digest a RuntimeError
            raise UsageError(f"--pretrained: {what} cannot be fetched from {url}: {error}; try again") from error
    return file


# torchvision. Its googlenet and inception_v3 have second heads, which train by a loss of their own.
_SECOND_HEADS = ("googlenet", "inception_v3")


def _torchvision_check(name: str) -> None:
    from torchvision import models

    if name in _SECOND_HEADS:
        raise ValueError(f"torchvision's {name} has a second head, which is not trained here; see timm's")
    names = [one for one in models.list_models(module=models) if one not in _SECOND_HEADS]
    _check(name, names, "torchvision.models.list_models()")


def _torchvision(name: str, num_classes: int, in_channels: int) -> nn.Module:
    from torchvision import models

    at = {"image_size": _torchvision_size(name)} if name.startswith("vit_") else {}  # positions are learnt for one
    model: nn.Module = models.get_model(name, weights=None, num_classes=num_classes, **at)
    if in_channels != 3:  # torchvision has no option for it
        conv = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
        conv.weight = nn.Parameter(conv.weight.detach()[:, :in_channels].clone())
        conv.in_channels = in_channels
    return model


def _torchvision_default(name: str) -> Any:
    from torchvision import models

    return models.get_model_weights(name).DEFAULT


def _torchvision_size(name: str) -> int:
    return int(_torchvision_default(name).transforms().crop_size[0])


def _torchvision_weights(name: str, download: bool) -> Weights:
    published = _torchvision_default(name)
    size = f"{published.meta['_file_size']:.0f} MB"
    file = _cached(published.url, f"the weights of torchvision:{name} ({size})", download)
    state, transforms = _read(file), published.transforms()
    if name.startswith("densenet"):  # kept under the keys of an older one: norm.1 is norm1
        state = {re.sub(r"(denselayer\d+\.(?:norm|conv))\.(\d)\.", r"\1\2.", key): state[key] for key in state}
    classes = tuple(published.meta["categories"])
    return Weights(
        model=_fitted(_torchvision(name, len(classes), 3), state, file),
        file=file,
        class_names=classes,
        size=int(transforms.crop_size[0]),
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
    )


def _timm_itself() -> Any:
    try:
        import timm
    except ImportError as error:
        raise missing_extra("--arch timm:NAME", "hub") from error
    return timm


def _timm_check(name: str) -> None:
    timm = _timm_itself()
    base, dot, tag = name.partition(".")
    _check(base, timm.list_models(), "timm.list_models()")
    if timm.models.model_entrypoint(base).__module__.startswith("wideresnet."):
        raise ValueError(f"timm:{name} is one of ours, which timm knows through us; leave out timm:")
    if dot:
        tags = [one.partition(".")[2] for one in timm.list_pretrained(f"{base}.*")]
        if tag not in tags:
            raise ValueError(f"{base} has no weights {tag!r}{nearest(tag, tags)}")


def _timm(name: str, num_classes: int, in_channels: int) -> nn.Module:
    model: nn.Module = _timm_itself().create_model(name, num_classes=num_classes, in_chans=in_channels)
    return model


def _timm_size(name: str) -> int:
    published = _timm_itself().get_pretrained_cfg(name)
    return USUAL_SIZE if published is None else int(published.input_size[-1])


def _timm_weights(name: str, download: bool) -> Weights:
    timm = _timm_itself()
    published, what = timm.get_pretrained_cfg(name), f"the weights of timm:{name}"
    if published is None or not (published.hf_hub_id or published.url):
        raise UsageError(
            f"--pretrained: timm publishes no weights of {name}; leave it out, or see timm.list_pretrained()"
        )
    hub = published.hf_hub_id
    file = _from_hugging_face(hub, what, download) if hub else _cached(published.url, what, download)
    try:
        model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"state_dict": _read(file)})
    except (RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelFileError(f"{file}: not the weights of timm:{name}: {reason}") from error
    config = timm.data.resolve_model_data_config(model)
    return Weights(
        model=model,
        file=file,
        class_names=tuple(f"class {i} of timm's weights" for i in range(model.num_classes)),  # it names none
        size=int(config["input_size"][-1]),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )


def _from_hugging_face(repository: str, what: str, download: bool) -> Path:
    """The file of weights in Hugging Face's own cache."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it tries for half a minute, and says each time
    for name in ("model.safetensors", "pytorch_model.bin"):
        try:
            return Path(hf_hub_download(repository, name, local_files_only=not download))
        except LocalEntryNotFoundError as error:
            if download:
                raise UsageError(f"--pretrained: {what} cannot be fetched from {repository}; try again") from error
        except EntryNotFoundError:
            continue
        except OSError as error:
            raise UsageError(f"--pretrained: {what} cannot be fetched from {repository}: {error}") from error
    if download:
        raise UsageError(f"--pretrained: {repository} on Hugging Face holds no weights that can be read")
    raise UsageError(f"--pretrained: {what} are not in Hugging Face's cache ({repository}); add --download")


LIBRARIES: dict[str, Library] = {
    "torchvision": Library(_torchvision_check, _torchvision, _torchvision_size, _torchvision_weights),
    "timm": Library(_timm_check, _timm, _timm_size, _timm_weights),
}
