"""`hf:OWNER/NAME` → the model file of a repository of Hugging Face's hub, from that library's own cache; a card → the
README of such a repository. The network is touched only if it is asked for."""

import dataclasses
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wideresnet import networks
from wideresnet.checkpoint import Card, ModelFile, read_card
from wideresnet.dialects import find_dialect
from wideresnet.errors import ModelFileError, UsageError, missing_extra

PREFIX = "hf:"
FILE = "model.safetensors"  # the repository's; with it nothing but README.md
_SHOWN = 40  # class names in a README, and files in an error


@dataclasses.dataclass(frozen=True, slots=True)
class Repository:
    """A repository on the hub: OWNER/NAME, and a branch, tag or commit; None: its main branch."""

    name: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"{PREFIX}{self.name}{f'@{self.revision}' if self.revision else ''}"


def model_file(model: str | Path, *, download: bool = False) -> Path:
    """The file that `model` means: of "hf:OWNER/NAME" or "hf:OWNER/NAME@REVISION" the one in the cache, which is
    brought there, or brought up to date, only if `download`; any other path is given back as it is.

    Raises UsageError (no such name, a missing extra), ModelFileError (not there, or nothing of ours).
    """
    text = Path(model).as_posix() if isinstance(model, Path) else model
    if not text.startswith(PREFIX) or Path(model).exists():
        return Path(model)
    name, _, revision = text.removeprefix(PREFIX).partition("@")
    return fetch(Repository(name, revision or None), download=download)


def fetch(repository: Repository, *, download: bool, **options: Any) -> Path:
    """As `model_file`; `options` are `hf_hub_download`'s: token, cache_dir, force_download."""
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError as error:
        raise missing_extra(f"{repository}: models of Hugging Face", "hub") from error
    try:
        with quiet():
            found = huggingface_hub.hf_hub_download(
                repository.name, FILE, revision=repository.revision, local_files_only=not download, **options
            )
    except errors.HFValidationError as error:
        raise UsageError(f"{repository}: expected {PREFIX}OWNER/NAME, as in {PREFIX}someone/flowers") from error
    except errors.RemoteEntryNotFoundError as error:
        held = _held(repository, options.get("token"))
        raise ModelFileError(f"{repository}: no {FILE} there; it holds {held}") from error
    except errors.RevisionNotFoundError as error:
        raise ModelFileError(f"{repository}: there is no such branch, tag or commit") from error
    except errors.GatedRepoError as error:
        raise ModelFileError(f"{repository}: its owner lets in only whom they know: {short(error)}") from error
    except errors.RepositoryNotFoundError as error:
        raise ModelFileError(
            f"{repository}: no such repository, or a private one that needs `hf auth login`"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        why = "cannot be reached" if download else "is not in the cache"
        hint = "" if download else ". Nothing is fetched unasked: --download (in Python download=True) brings it"
        raise ModelFileError(f"{repository}: {why}{_reason(error) if download else ''}{hint}") from error
    except Exception as error:  # it names no set of its errors: its own, httpx's, the system's
        raise ModelFileError(f"{repository}: cannot be loaded: {short(error)}") from error
    path = Path(found)
    try:
        read_card(path)
    except ModelFileError as error:
        held = (
            _held(repository, options.get("token"))
            if download
            else _listed([file.name for file in path.parent.iterdir()])
        )
        said = str(error).removeprefix(f"{path}: ")
        raise ModelFileError(f"{repository}: its {FILE}: {said}. It holds {held}") from error
    return path


@contextmanager
def quiet() -> Iterator[None]:
    """While open, requests do not name torch and what else is installed, and bars are drawn on a terminal alone.

    The first switch is read once, from the environment, when the library is imported; this is where it keeps it.
    """
    import huggingface_hub.constants as switches
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    telemetry, bars = switches.HF_HUB_DISABLE_TELEMETRY, not are_progress_bars_disabled()
    switches.HF_HUB_DISABLE_TELEMETRY = True
    if bars and not sys.stderr.isatty():
        disable_progress_bars()
    try:
        yield
    finally:
        switches.HF_HUB_DISABLE_TELEMETRY = telemetry
        if bars:
            enable_progress_bars()


def _held(repository: Repository, token: Any) -> str:
    from huggingface_hub import HfApi

    try:
        with quiet():
            names = HfApi(token=token).list_repo_files(repository.name, revision=repository.revision)
    except Exception as error:  # as above; the reason why is said, what is held cannot be
        return f"what it does not say ({short(error)})"
    return _listed(names)


def _listed(names: Iterable[str]) -> str:
    names = sorted(name for name in names if name != ".gitattributes")
    return (
        ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
    ) or "nothing"


def _reason(error: BaseException) -> str:
    cause = error.__cause__
    return f": {short(cause)}" if cause is not None else ""


def short(error: BaseException) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:300]


def readme(file: ModelFile, repository: str) -> str:
    """README.md of a repository with a model file: what Hugging Face shows and searches by, for people all the rest."""
    card = file.card
    network, own = networks.arch_name(card.architecture), "library" not in card.architecture
    size, channels = card.preprocess.size, card.preprocess.channels
    parameters = sum(p.numel() for p in file.model.parameters())
    bare = networks.without_weights(card.architecture, len(card.class_names), in_channels=channels)
    macs = networks.count_macs(bare, channels, size)
    names = [_plain(name) for name in card.class_names]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    fit = {"crop": "their centre", "squash": "both sides made equal", "pad": "padded to a square"}[card.preprocess.fit]
    each = ", then each by its own mean and std" if card.preprocess.per_image else ""
    rows = {
        "network": f"`{network}`, {parameters:,} parameters, {macs / 1e6:,.0f} M MACs",
        "classes": f"{len(names)}: {', '.join(names[:_SHOWN])}{more}",
        "pictures": f"resized to {size}×{size}, {fit}; {'colour' if channels == 3 else 'grey'}",
        "mean and std": f"{_numbers(card.preprocess.mean)} and {_numbers(card.preprocess.std)} of [0, 1]{each}",
        "weights": card.weights,
        "temperature": f"{card.temperature:.4g}",
        **_origin(card),
        **_figures(card.figures),
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    tags = "\n".join(
        f"- {tag}"
        for tag in ("wideresnet", *(["wide-resnet"] if own else []), "image-classification", network.split()[0])
    )
    return f"""---
library_name: wideresnet
pipeline_tag: image-classification
tags:
{tags}
---

# {repository.partition("/")[2] or repository}

{"A Wide ResNet" if own else "A network"} for {len(names)} classes, a model file of the Python package wideresnet.

| | |
| --- | --- |
{table}

```sh
wrn predict {PREFIX}{repository} PICTURES --download
```

```python
import wideresnet as wrn

predictor = wrn.load("{PREFIX}{repository}", download=True)
predictor("picture.jpg").label
```

`{FILE}` holds all that it takes: weights, classes, preprocessing.
"""


def _origin(card: Card) -> dict[str, str]:
    """Whose weights they were, if not trained here: their paper is to be cited and their licence to be kept."""
    if not card.imported:
        return {}
    dialect = find_dialect(card.imported["dialect"])
    return {
        "imported from": f"a checkpoint of {dialect.source.split()[0]} ({dialect.paper}), whose code has the licence "
        f"{dialect.licence}; that of the weights is their author's to say"
    }


def _figures(figures: Mapping[str, Any]) -> dict[str, str]:
    """Each with the split that it is of; none if there are none."""
    if not {"split", "accuracy", "accuracy_interval"} <= figures.keys():
        return {}
    low, high = figures["accuracy_interval"]
    count = f" of {figures['num_images']:,} pictures" if "num_images" in figures else ""
    rows = {
        f"accuracy on {figures['split']}": f"{figures['accuracy']:.1%}{count}, 95 % interval {low:.1%} to {high:.1%}"
    }
    for key, label in {"loss": "loss", "ece": "calibration error (ECE)"}.items():
        if isinstance(figures.get(key), float):
            rows[f"{label} on {figures['split']}"] = f"{figures[key]:.4f}"
    return rows


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:.4g}" for value in values)


def _plain(name: str) -> str:
    """A class name within a cell of a Markdown table."""
    return " ".join(name.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").split())
