"""Unknown pictures: what a model keeps of its training to tell them by, and how well it tells those of other data."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from wideresnet import classification, metrics, prediction
from wideresnet.engines import Engine

if TYPE_CHECKING:
    from wideresnet.jobs.preparation import Prepared

FIT_ON = (
    10_000  # pictures of train at most: some hundred axes need no more, and a pass of all would take an epoch's third
)


def fitted(
    prepared: "Prepared",
    engine: Engine,
    split: str,
    held_out: tuple[np.ndarray, Tensor | None],
) -> tuple[dict[str, Any], Mapping[str, Tensor]]:
    """For the card and for `extra`: fitted on the train part, its threshold from `split`, of which the logits and
    embeddings are given. Nothing where it cannot be, which is said."""
    config, (logits, embeddings) = prepared.config, held_out
    try:
        if split == "train":
            raise ValueError("no pictures are held out")
        if embeddings is None:
            raise ValueError("it has more than one layer of classes")
        train = classification.embeddings_of_some(prepared.train, engine, FIT_ON, config.seed, prepared.world)
        score = metrics.fit_unknown(train.numpy(), logits, embeddings.numpy())
    except ValueError as error:
        prepared.watch.line(f"note: the model will not tell unknown pictures: {error}")
        return {}, {}
    if split != "val":
        prepared.watch.line(f"note: there is no val part: what counts as unknown is measured on {split}")
    return prediction.stored(score, split, len(logits))
