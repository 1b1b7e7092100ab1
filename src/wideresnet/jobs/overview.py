"""What there is: networks, runs, a model file, this machine. Values for a table; nothing is computed or changed."""

import csv
import os
from pathlib import Path
from typing import Any

import torch

from wideresnet import hub, kernels, metrics, networks, runs, runtime
from wideresnet.checkpoint import load_model, read_card
from wideresnet.dialects import ARCHITECTURES, DEFAULTS, DIALECTS, FORMS, parse_arch
from wideresnet.errors import ModelFileError, UsageError
from wideresnet.model import WideResNetClassifier, count_macs


def list_models(form: str = "", num_classes: int = 10) -> list[dict[str, Any]]:
    """Each architecture of the papers: name, title, depth, widen factor, parameters, MACs at 32×32, who uses it."""
    if num_classes < 1:
        raise UsageError(f"num_classes={num_classes}: expected a whole number from 1")
    rows = []
    for row in ARCHITECTURES:
        name = f"{row.name}.{form}" if form else row.name
        with torch.device("meta"):
            model = WideResNetClassifier(num_classes, **parse_arch(name))
        rows.append(
            {
                "arch": name,
                "title": row.title,
                "depth": row.depth,
                "widen_factor": row.widen_factor,
                "parameters": sum(p.numel() for p in model.parameters()),
                "macs": count_macs(model),
                "used_by": row.used_by,
            }
        )
    return rows


def list_dialects() -> list[dict[str, Any]]:
    """Each published variant: names, source, paper, licence of the code, options of the network other than the paper's
    own, what is done to its input, quirks."""
    paper = FORMS["paper"]
    return [
        {
            "dialect": ", ".join((row.name, *row.aliases)),
            "source": row.source,
            "paper": row.paper,
            "licence": row.licence,
            "options": {name: value for name, value in row.options.items() if value != paper.get(name, DEFAULTS[name])},
            "input": {data_set: str(value) for data_set, value in row.inputs.items()},
            "quirks": row.quirks,
        }
        for row in DIALECTS
    ]


def list_runs(folder: str | Path = "runs") -> list[dict[str, Any]]:
    """The runs of a folder side by side: data, network, recipe, epochs done, best val accuracy, test figures."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder; `wrn train DATA` makes runs under runs/")
    rows = list[dict[str, Any]]()
    for run in runs.find(folder):
        try:
            config = runs.read_config(run)
            progress = _progress_of_folds(run, config) if config.every_fold else _progress(run, config.recipe.epochs)
        except (ModelFileError, ValueError, KeyError, TypeError, csv.Error, OSError) as error:
            rows.append({"run": run.name, "data": f"unreadable: {error}"})
            continue
        rows.append(
            {
                "run": run.name,
                "data": Path(config.data).name,
                "arch": config.arch,
                "size": config.size,
                "recipe": config.recipe.name,
                **progress,
            }
        )
    return rows


def _progress(run: Path, epochs: int) -> dict[str, Any]:
    rows = list(csv.DictReader((run / runs.METRICS).open(encoding="utf-8"))) if (run / runs.METRICS).exists() else []
    best = {
        key: max((float(row[key]) for row in rows if row.get(key)), default=None) for key in ("val_accuracy", "val_ap")
    }
    figures: dict[str, Any] = {}
    if (run / runs.MODEL).exists():
        figures = dict(read_card(run / runs.MODEL).figures)
    return {
        "epochs": f"{len(rows)}/{epochs}",
        "val_accuracy": best["val_accuracy"],
        "split": figures.get("split"),
        "accuracy": figures.get("accuracy"),
        "interval": figures.get("accuracy_interval"),
        **(
            {"val_ap": best["val_ap"], "ap": figures.get("ap")} if best["val_ap"] is not None or "ap" in figures else {}
        ),
    }


def _progress_of_folds(run: Path, config: runs.Config) -> dict[str, Any]:
    """As `_progress`, of a cross-validation: folds done, and the figures over all their held-out pictures."""
    models = [run / f"fold-{k}" / runs.MODEL for k in range(1, config.folds + 1)]
    done = [figures for model in models if model.exists() and (figures := read_card(model).figures)]
    progress: dict[str, Any] = {"epochs": f"{len(done)}/{config.folds} folds", "val_accuracy": None, "split": None}
    if len(done) == config.folds:
        correct, num = (sum(figures[key] for figures in done) for key in ("correct", "num_images"))
        interval = list(metrics.accuracy_interval(correct, num))
        progress |= {"split": "held-out", "accuracy": correct / num, "interval": interval}
    return progress


def describe_model(model: str | Path, *, download: bool = False) -> dict[str, Any]:
    """What a model file says of itself, as `wrn info MODEL` shows it. `model` and download: as `load`'s."""
    file = load_model(hub.model_file(model, download=download), "classification", "detection")
    card = file.card
    scale = {"threshold": card.threshold} if card.task == "detection" else {"temperature": card.temperature}
    return {
        "task": card.task,
        "network": networks.arch_name(card.architecture),
        "architecture": dict(card.architecture),
        "parameters": sum(p.numel() for p in file.model.parameters()),
        "weights": card.weights,
        "classes": list(card.class_names),
        "preprocess": card.preprocess.to_dict(),
        **scale,
        **({"unknown": dict(card.unknown)} if card.unknown else {}),
        "figures": dict(card.figures),
        "trained": dict(card.trained),
        **(
            {"imported": {k: v for k, v in card.imported.items() if k not in ("keys", "dtypes")}}
            if card.imported
            else {}
        ),
        "extra": sorted(file.extra),
    }


def describe_machine() -> dict[str, Any]:
    """What this machine offers."""
    return {
        "device": str(runtime.choose_device()),
        "cores": runtime.num_cores(),
        "machine_cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "engines": ["kernels", "torch"] if kernels.isa() != "none" else ["torch"],
        "kernels": kernels.state(),
        "versions": runtime.versions(),
    }
