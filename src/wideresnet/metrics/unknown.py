"""Logits and embeddings → how unknown each picture is; and how well such a score tells unknown pictures from known
ones. A larger score is more unknown, here and everywhere."""

from dataclasses import dataclass

import numpy as np

ACCEPTED = 95  # percent of the known pictures that a threshold lets pass, as FPR@95 has it
ACCEPTED_SHARE = ACCEPTED / 100
FEWEST = 20  # pictures to fit on, and held-out ones: of fewer, 95 percent is all of them
_MOST_NUMBERS = 1 << 18  # of the stored axes: 1 MB


@dataclass(frozen=True, slots=True, eq=False)
class UnknownScore:
    """What a model keeps of its training to tell unknown pictures by: ViM, "virtual-logit matching" (Wang et al. 2022).

    Embeddings of known pictures lie near few axes. A score is `weight` · the length of what lies across them, less the
    logsumexp of the logits (the energy of Liu et al. 2020): the one finds pictures unlike all in training, the other
    those between its classes. Why this score: docs/unknown.md.
    """

    mean: np.ndarray  # [D]
    axes: np.ndarray  # [D, R], orthonormal: the first principal axes of the embeddings in training
    weight: float
    quantiles: np.ndarray  # [100]: the least score that 1, 2, …, 100 % of the held-out pictures do not exceed

    def scores(self, logits: np.ndarray, embeddings: np.ndarray) -> np.ndarray:
        """logits [N, num_classes], embeddings [N, D] → float64 [N], in nats."""
        step, parts = 1 << 12, list[np.ndarray]()  # what is computed in float64 takes many times the embeddings' memory
        for rows in (slice(start, start + step) for start in range(0, max(1, len(logits)), step)):
            parts.append(self.weight * across(embeddings[rows], self.mean, self.axes) + energy(logits[rows]))
        return np.concatenate(parts)

    def shares(self, scores: np.ndarray) -> np.ndarray:
        """scores [N] → [N], 0…1: the share of held-out pictures that look less unknown, to a hundredth; of what looks
        more unknown than all of them 1, of a score that is no number too."""
        below = np.searchsorted(self.quantiles, scores, side="left") / len(self.quantiles)
        return np.where(np.isnan(scores), 1.0, below)

    @property
    def threshold(self) -> float:
        """The score above which a picture is called unknown: 5 % of the held-out ones are."""
        return float(self.quantiles[ACCEPTED - 1])


def fit_unknown(train: np.ndarray, logits: np.ndarray, embeddings: np.ndarray) -> UnknownScore:
    """train: embeddings [N, D] that the network was trained on; logits and embeddings of held-out pictures [M, …], by
    which the two parts are weighed as the paper does (equation 5), and of which the quantiles are.

    The paper weighs by training pictures; where these are few they lie closer to their own axes than any other does.
    Of many dimensions fewer axes are kept than its half of them, so that they take 1 MB at most. Raises ValueError on
    fewer than FEWEST pictures, and on what is not finite.
    """
    for what, rows in {"to fit on": train, "held out": logits}.items():
        if len(rows) < FEWEST:
            raise ValueError(f"{len(rows)} pictures {what}; it takes {FEWEST}")
    if not all(np.isfinite(each).all() for each in (train, logits, embeddings)):
        raise ValueError("embeddings or logits are not finite")
    num, dims = train.shape
    mean = train.mean(axis=0, dtype=np.float64)
    centred = train - mean
    kept = max(1, min(dims // 2, (num - 1) // 2, _MOST_NUMBERS // dims))
    _, vectors = np.linalg.eigh(centred.T @ centred / num)  # rising
    # As they will be stored, so that a model answers the same before and after.
    mean, axes = (each.astype(np.float32) for each in (mean, vectors[:, ::-1][:, :kept]))
    rest = across(embeddings, mean, axes).mean()
    # What never varies, or has no dimension left, lies across nothing: the energy is then all.
    noise = 1e-6 * np.linalg.norm(embeddings.astype(np.float64), axis=1).mean()
    weight = float(abs(logits.max(axis=1).mean(dtype=np.float64)) / rest) if rest > noise else 0.0
    without = UnknownScore(mean, axes, weight, np.zeros(100))
    scores = np.sort(without.scores(logits, embeddings))
    ranks = -(-np.arange(1, 101) * len(scores) // 100)
    return UnknownScore(mean, axes, weight, scores[ranks - 1])


def energy(logits: np.ndarray) -> np.ndarray:
    """−logsumexp of the logits [N, num_classes]: float64 [N]. Liu et al. 2020, equation 4, at T = 1."""
    logits = logits.astype(np.float64)
    top = logits.max(axis=1)
    return np.asarray(-top - np.log(np.exp(logits - top[:, None]).sum(axis=1)))


def across(embeddings: np.ndarray, mean: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """[N, D] → [N]: the distance from the space that the axes span through the mean."""
    centred = embeddings.astype(np.float64) - mean
    along = centred @ axes.astype(np.float64)
    return np.asarray(np.linalg.norm(centred - along @ axes.T.astype(np.float64), axis=1))


def auroc(known: np.ndarray, unknown: np.ndarray) -> float:
    """The share of pairs, one known and one unknown picture, in which the unknown one has the larger score; ties count
    half. 1 is perfect, 0.5 chance. Hanley & McNeil 1982. Raises ValueError as `_checked`."""
    known, unknown = np.sort(_checked(known, "known")), _checked(unknown, "unknown")
    below = np.searchsorted(known, unknown, side="left") + np.searchsorted(known, unknown, side="right")
    return float(below.sum() / (2 * len(known) * len(unknown)))


def threshold(known: np.ndarray) -> float:
    """The least score that ACCEPTED percent of the known pictures do not exceed. Raises ValueError as `_checked`."""
    known = np.sort(_checked(known, "known"))
    return float(known[-(-ACCEPTED * len(known) // 100) - 1])


def fpr95(known: np.ndarray, unknown: np.ndarray) -> float:
    """The share of unknown pictures that pass for known ones where 95 % of the known ones do. 0 is perfect, 0.95 about
    chance. Raises ValueError as `_checked`."""
    return float((_checked(unknown, "unknown") <= threshold(known)).mean())


def _checked(scores: np.ndarray, what: str) -> np.ndarray:
    """float64. Raises ValueError if there is none, or one that is no number: it would stand nowhere in the order."""
    scores = np.asarray(scores, np.float64)
    if scores.ndim != 1 or len(scores) == 0:
        raise ValueError(f"{what} scores of shape {list(scores.shape)}; expected [N], N ≥ 1")
    if not np.isfinite(scores).all():
        raise ValueError(f"{(~np.isfinite(scores)).sum()} of {len(scores)} {what} scores are not finite")
    return scores
