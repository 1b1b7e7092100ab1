"""Two models' answers to the same pictures → which is better, and whether that may be chance."""

import math

import numpy as np

from wideresnet.metrics.answers import Z_95


def mcnemar(only_a: int, only_b: int) -> float:
    """p of the exact test, two-sided: how likely at least so uneven a split of the pictures on which two models differ
    is, if both are equally good. only_a, only_b: pictures that one of them alone has right; those that both have right
    or wrong tell nothing. 1 where there is none. McNemar 1947; exact, by the binomial: Fagerland et al. 2013, eq. 2.
    """
    if min(only_a, only_b) < 0:
        raise ValueError(f"only_a={only_a}, only_b={only_b}: expected counts")
    if only_a + only_b == 0:
        return 1.0
    from scipy.stats import binomtest  # late: prediction need not wait for it

    return float(binomtest(min(only_a, only_b), only_a + only_b, 0.5).pvalue)


def chance_of_less(right: int, count: int, all_right: int, total: int) -> float:
    """p that so few, or fewer, of `count` pictures drawn from `total`, of which all_right are right, are right: whether
    a group is weaker than the others beyond chance. One side of Fisher's exact test (1935)."""
    if count == 0:
        return 1.0
    from scipy.stats import hypergeom

    return float(hypergeom.cdf(right, total, all_right, count))


def difference_interval(only_a: int, only_b: int, total: int) -> tuple[float, float]:
    """95 % interval of accuracy(a) − accuracy(b) on the same `total` pictures, within [−1, 1].

    Bonett & Price 2012, equation 8: Wald's interval with one picture added to each kind, so that it is never empty and
    holds for few pictures. Raises ValueError unless only_a + only_b ≤ total ≥ 1.
    """
    if not (total >= 1 and min(only_a, only_b) >= 0 and only_a + only_b <= total):
        raise ValueError(f"only_a={only_a} and only_b={only_b} of total={total}: expected counts that fit")
    a, b = (only_a + 1) / (total + 2), (only_b + 1) / (total + 2)
    half = Z_95 * math.sqrt((a + b - (a - b) ** 2) / (total + 2))
    return float(np.clip(a - b - half, -1, 1)), float(np.clip(a - b + half, -1, 1))
