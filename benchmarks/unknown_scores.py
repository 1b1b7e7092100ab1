"""The candidates of benchmarks/unknown.py: what has been published to tell unknown inputs by logits and embeddings.

Each is fitted on the training part and scores new pictures; a larger score is more unknown, whatever the sign is in its
paper. The package itself has the one that won, and energy for models that have stored nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Array = np.ndarray
Scored = Callable[[Array, Array], Array]  # logits [N, num_classes], embeddings [N, D] → [N]


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """What may be fitted on."""

    logits: Array  # [N, num_classes], float64
    embeddings: Array  # [N, D], float64
    labels: Array
    weight: Array  # of the class layer, [num_classes, D]
    bias: Array


def logsumexp(logits: Array) -> Array:
    top = logits.max(axis=1)
    return np.asarray(top + np.log(np.exp(logits - top[:, None]).sum(axis=1)))


def unit(embeddings: Array) -> Array:
    return np.asarray(embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True).clip(1e-12))


def msp(_: Known) -> tuple[Scored, int]:
    """Hendrycks & Gimpel 2017: −max softmax. Its logarithm, which does not round to 0."""
    return lambda logits, _: logsumexp(logits) - logits.max(axis=1), 0


def max_logit(_: Known) -> tuple[Scored, int]:
    """Hendrycks et al. 2022."""
    return lambda logits, _: -logits.max(axis=1), 0


def energy(_: Known) -> tuple[Scored, int]:
    """Liu et al. 2020: −logsumexp, T = 1."""
    return lambda logits, _: -logsumexp(logits), 0


def _means(embeddings: Array, labels: Array) -> Array:
    return np.stack([embeddings[labels == k].mean(axis=0) for k in range(labels.max() + 1)])


def _root(centred: Array) -> Array:
    """A with A Aᵀ = the inverse of the covariance, a little ridge for what never varies."""
    covariance = centred.T @ centred / len(centred)
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray(vectors / np.sqrt(values.clip(1e-6 * values.max())))


def _squares(embeddings: Array, mean: Array, root: Array) -> Array:
    return np.asarray(np.square((embeddings - mean) @ root).sum(axis=1))


def mahalanobis(known: Known) -> tuple[Scored, int]:
    """Lee et al. 2018, on the embeddings alone: squared distance from the nearest class mean, one covariance."""
    means = _means(known.embeddings, known.labels)
    root = _root(known.embeddings - means[known.labels])
    return (
        lambda _, e: np.min([_squares(e, mean, root) for mean in means], axis=0),
        means.size + root.size,
    )


def mahalanobis_unit(known: Known) -> tuple[Scored, int]:
    """The same of embeddings of length 1: Müller & Hein 2025, "Mahalanobis++"."""
    one = Known(known.logits, unit(known.embeddings), known.labels, known.weight, known.bias)
    score, size = mahalanobis(one)
    return lambda logits, e: score(logits, unit(e)), size


def relative_mahalanobis(known: Known) -> tuple[Scored, int]:
    """Ren et al. 2021: less the distance from all of them."""
    near, size = mahalanobis(known)
    mean = known.embeddings.mean(axis=0)
    root = _root(known.embeddings - mean)
    return lambda logits, e: near(logits, e) - _squares(e, mean, root), size + root.size + mean.size


def ddu(known: Known) -> tuple[Scored, int]:
    """Mukhoti et al. 2023: −log density of a Gaussian a class, each with its covariance (without spectral norm, which
    is of training)."""
    parts = []
    for k in range(known.labels.max() + 1):
        own = known.embeddings[known.labels == k]
        root = _root(own - own.mean(axis=0))
        log_det = np.linalg.slogdet(root)[1]  # of the covariance's inverse, halved
        parts.append((own.mean(axis=0), root, np.log(len(own) / len(known.labels)) + log_det))

    def score(_: Array, e: Array) -> Array:
        return -logsumexp(np.stack([c - _squares(e, mean, root) / 2 for mean, root, c in parts], axis=1))

    return score, len(parts) * (known.embeddings.shape[1] + 1) * known.embeddings.shape[1]


def vim(known: Known) -> tuple[Scored, int]:
    """Wang et al. 2022: what of the embedding lies outside the principal space, as one logit more."""
    origin = -np.linalg.pinv(known.weight) @ known.bias
    centred = known.embeddings - origin
    dims = known.embeddings.shape[1]
    kept = 1000 if dims >= 2048 else 512 if dims >= 768 else dims // 2
    _, vectors = np.linalg.eigh(centred.T @ centred / len(centred))
    rest = vectors[:, : dims - kept]
    residual = np.linalg.norm(centred @ rest, axis=1)
    alpha = known.logits.max(axis=1).mean() / residual.mean()
    return (
        lambda logits, e: alpha * np.linalg.norm((e - origin) @ rest, axis=1) - logsumexp(logits),
        rest.size + origin.size,
    )


def knn(known: Known, k: int = 50, most: int | None = None) -> tuple[Scored, int]:
    """Sun et al. 2022: distance from the k-th nearest training picture, embeddings of length 1; k = 50 for CIFAR-10,
    theirs. most: of so many of them alone, k in proportion."""
    bank = unit(known.embeddings).astype(np.float32)
    if most is not None and len(bank) > most:
        k = max(1, round(k * most / len(bank)))
        bank = bank[np.random.default_rng(0).permutation(len(bank))[:most]]

    def score(_: Array, e: Array) -> Array:
        found = []
        for part in np.array_split(unit(e).astype(np.float32), max(1, len(e) // 500)):
            nearness = part @ bank.T
            found.append(1 - np.partition(nearness, len(bank) - k, axis=1)[:, len(bank) - k])
        return np.concatenate(found)

    return score, bank.size


def knn_1000(known: Known) -> tuple[Scored, int]:
    return knn(known, most=1000)


CANDIDATES: dict[str, Callable[[Known], tuple[Scored, int]]] = {
    "MSP": msp,
    "max logit": max_logit,
    "energy": energy,
    "Mahalanobis": mahalanobis,
    "Mahalanobis, unit length": mahalanobis_unit,
    "relative Mahalanobis": relative_mahalanobis,
    "DDU": ddu,
    "ViM": vim,
    "KNN, all of train": knn,
    "KNN, 1,000 of train": knn_1000,
}
