"""What the sources do to an image before their network sees it: the values, each written once."""

from collections.abc import Sequence
from dataclasses import dataclass

Triple = tuple[float, float, float]


def three(values: Sequence[float]) -> Triple:
    """One number for every channel, or three."""
    first, second, third = tuple(values) * (3 if len(values) == 1 else 1)
    return first, second, third


@dataclass(frozen=True, slots=True)
class Input:
    """What the source does to an image in [0, 1]: (x − mean) / std; of `channels` 1, the first of each."""

    mean: Triple = (0.0, 0.0, 0.0)
    std: Triple = (1.0, 1.0, 1.0)
    per_image: bool = False  # standardised by its own mean and std after it
    border: int = 0  # black pixels around, before it

    def then(self, after: "Input") -> "Input":
        """Both in one: (((x − m₁) / s₁) − m₂) / s₂ = (x − (m₁ + s₁ m₂)) / (s₁ s₂)."""
        mean = tuple(m1 + s1 * m2 for m1, s1, m2 in zip(self.mean, self.std, after.mean, strict=True))
        std = tuple(s1 * s2 for s1, s2 in zip(self.std, after.std, strict=True))
        return Input((mean[0], mean[1], mean[2]), (std[0], std[1], std[2]))

    def __str__(self) -> str:
        if self.per_image:
            return "each image by its own mean and std"
        if self == Input():
            return "none: [0, 1]"
        around = f"{self.border} black pixels around, " if self.border else ""
        if self.mean == self.std == (0.5, 0.5, 0.5):
            return f"{around}2x − 1"
        return f"{around}mean {_short(self.mean)}, std {_short(self.std)}"


def _short(values: Triple) -> str:
    return " ".join(f"{value:.4f}".rstrip("0").lstrip("0") for value in values)


def of_bytes(mean: Triple, std: Triple) -> Input:
    """From values in [0, 255], as the sources write them."""
    return Input((mean[0] / 255, mean[1] / 255, mean[2] / 255), (std[0] / 255, std[1] / 255, std[2] / 255))


ANY = ""  # the data set of an input that holds for all
ZERO_ONE, PLUS_MINUS_ONE = Input(), Input((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
IMAGENET = Input((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
ZAGORUYKO = of_bytes((125.3, 123.0, 113.9), (63.0, 62.1, 66.7))
CIFAR10 = Input((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616))
CIFAR10_NARROW = Input((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))  # std of each image's std, often copied
CIFAR100 = Input((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))
SSL_CIFAR100 = of_bytes((129.3, 124.1, 112.4), (68.2, 65.4, 70.4))
