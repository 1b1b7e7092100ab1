"""What was answered, as numbers: probabilities, loss, accuracy and how sure we are of it, confusions."""

import numpy as np

Z_95 = 1.959963984540054  # the 97.5 % quantile of the standard normal


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """log of softmax over the last axis, float64; never overflows."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def softmax(logits: np.ndarray) -> np.ndarray:
    """logits [N, num_classes] → probs [N, num_classes], float64, each row summing to 1."""
    return np.asarray(np.exp(log_softmax(logits)))


def accuracy_interval(correct: int, total: int) -> tuple[float, float]:
    """95 % interval of the share `correct` of `total`, within [0, 1]. Raises ValueError unless 0 ≤ correct ≤ total ≥ 1.

    Wilson 1927: unlike share ± 1.96 σ it is never empty, also at 0 % and 100 %, and holds for few pictures.
    """
    if not (total >= 1 and 0 <= correct <= total):
        raise ValueError(f"correct={correct} of total={total}: expected 0 ≤ correct ≤ total and total ≥ 1")
    share, z2 = correct / total, Z_95**2
    centre = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = Z_95 * np.sqrt(share * (1 - share) / total + z2 / (4 * total**2)) / (1 + z2 / total)
    # The ends are exact in theory; in floating point 0 of 7 would begin at 1e-17 and 7 of 7 end below 1.
    return (0.0 if correct == 0 else float(centre - half)), (1.0 if correct == total else float(centre + half))


def top_k_accuracy(logits: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Share of pictures whose label is among the k largest logits; of equal logits the lower class comes first,
    so that k=1 is the accuracy of `argmax`."""
    first_k = np.argsort(-logits, axis=1, kind="stable")[:, :k]  # [N, k]
    return float((first_k == labels[:, None]).any(axis=1).mean())


def negative_log_likelihood(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean of −log softmax(logits)[label], in nats: the cross-entropy."""
    return float(-log_softmax(logits)[np.arange(len(labels)), labels].mean())


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """[num_classes, num_classes] int64: row the true class, column the predicted one."""
    # Not scikit-learn's: that one warns of a model with one class, whatever it is told.
    counts = np.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes).astype(np.int64)
