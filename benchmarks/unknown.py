"""Which score tells unknown pictures best: every candidate on one model, one kind of known and several of unknown ones.

    python benchmarks/unknown.py RUN DATA --ood NAME=DATA ...

Fitted on the train part of RUN's data, judged on its test part against all pictures of each other data set, all of
them through RUN's own preprocessing. Prints the Markdown table of docs/numbers.md: AUROC / FPR@95 for each, the time
that fitting and 1,000 scores take beyond the network's own pass, and what would be stored. The last row is the
package's own: fitted on a part of train, weighed by val.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from unknown_scores import CANDIDATES, Array, Known, Scored

from wideresnet import data as data_room
from wideresnet import jobs, networks, runtime
from wideresnet.classification import embeddings_of_some
from wideresnet.data.folders import pictures_below
from wideresnet.images import decode
from wideresnet.jobs.evaluation import parts_of_training
from wideresnet.jobs.unknown import FIT_ON
from wideresnet.metrics import auroc, fit_unknown, fpr95
from wideresnet.prediction import Predictor

PER_CLASS = 5000  # of train, at most


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("data")
    parser.add_argument("--ood", action="append", default=[], help="NAME=DATA, or NAME=FOLDER of WebP sheets")
    arguments = parser.parse_args()
    predictor = jobs.load(arguments.run)
    listing = data_room.read(arguments.data)
    loaded = data_room.load(listing, predictor.card.preprocess)
    fingerprint = data_room.fingerprint(listing.class_names, loaded.parts)
    parts, _ = parts_of_training(dict(loaded.parts), fingerprint, predictor.card)
    train, test = parts["train"], parts["test"]
    rows = chosen(train.labels, PER_CLASS)
    logits, embeddings = embed(predictor, train.take(rows).images)
    layer = predictor.card.architecture
    model = networks.from_card(layer)
    weights = fc(arguments.run, model)
    known = Known(logits, embeddings, train.labels[rows].numpy(), *weights)
    near = embed(predictor, test.images)
    print(f"{arguments.run}: fitted on {len(rows):,}, {len(test):,} known, D = {embeddings.shape[1]}")
    others = {}
    for one in arguments.ood:
        name, _, place = one.partition("=")
        others[name] = embed(predictor, pictures(Path(place), predictor))
        print(f"{name}: {len(others[name][0]):,} pictures")
    heads = " | ".join(f"{name} AUROC | FPR@95" for name in others)
    print(f"| score | {heads} | mean AUROC | fit s | 1,000 scores ms | KB stored |")
    print("| --- |" + " ---: |" * (2 * len(others) + 4))
    held_out, some = embed(predictor, parts["val"].images), embeddings_of_some(train, predictor.engine, FIT_ON, 0)

    def stored(_: Known) -> tuple[Scored, int]:
        own = fit_unknown(some.numpy(), *held_out)
        return own.scores, own.axes.size + own.mean.size + 2 * own.quantiles.size

    for name, make in {**CANDIDATES, "ViM, as stored": stored}.items():
        started = time.perf_counter()
        score, floats = make(known)
        fit_s = time.perf_counter() - started
        started = time.perf_counter()
        inside = score(*near)
        each_ms = (time.perf_counter() - started) / len(inside) * 1e6
        figures = [(auroc(inside, out := score(*other)), fpr95(inside, out)) for other in others.values()]
        cells = " | ".join(f"{100 * a:.2f} | {100 * f:.1f}" for a, f in figures)
        mean = 100 * float(np.mean([a for a, _ in figures]))
        print(f"| {name} | {cells} | {mean:.2f} | {fit_s:.2f} | {each_ms:.1f} | {floats * 4 / 1000:,.0f} |", flush=True)


def chosen(labels: torch.Tensor, most: int) -> torch.Tensor:
    """Rows of at most so many of each class, drawn by seed 0."""
    order = torch.randperm(len(labels), generator=runtime.generator(0, "unknown"))
    kept = [order[labels[order] == label][:most] for label in labels.unique()]
    return torch.cat(kept).sort().values


def fc(run: str, model: torch.nn.Module) -> tuple[Array, Array]:
    from wideresnet.checkpoint import load_model

    layer = load_model(Path(run)).model.get_submodule(networks.class_layer(model))
    assert isinstance(layer, torch.nn.Linear)
    return layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy()


def embed(predictor: Predictor, images: "torch.Tensor | data_room.Stream") -> tuple[Array, Array]:
    logits, embeddings = predictor.engine.embed(images)
    return logits.double().numpy(), embeddings.double().numpy()


def pictures(place: Path, predictor: Predictor) -> torch.Tensor:
    """All of them as the network gets them: of sheets of 25 × 32 pixels, or of a folder."""
    resize = predictor.card.preprocess.resize
    if sheets := sorted(place.glob("*.webp")):
        tiles = [decode(path).reshape(-1, 32, 25, 32, 3).swapaxes(1, 2).reshape(-1, 32, 32, 3) for path in sheets]
        return torch.stack([resize(np.ascontiguousarray(tile)) for tile in np.concatenate(tiles)])
    return torch.stack([resize(decode(path)) for path in pictures_below(place)])


if __name__ == "__main__":
    main()
