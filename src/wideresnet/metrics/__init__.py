"""Arrays → numbers: what was answered and what was true → how good that is, and how sure we are. Pure; draws, prints
and reads nothing. What scikit-learn defines is scikit-learn's; what it has not is a few lines beside its source."""

from wideresnet.metrics.answers import (
    Z_95,
    accuracy_interval,
    confusion_matrix,
    log_softmax,
    negative_log_likelihood,
    softmax,
    top_k_accuracy,
)
from wideresnet.metrics.calibration import (
    TEMPERATURES,
    ReliabilityBins,
    RiskCoverage,
    brier_score,
    equal_mass_calibration_error,
    expected_calibration_error,
    fit_temperature,
    reliability_bins,
    risk_coverage,
)
from wideresnet.metrics.classes import (
    Average,
    ClassFigures,
    TwoClasses,
    averages,
    macro_f1,
    macro_f1_interval,
    per_class,
    two_classes,
)
from wideresnet.metrics.comparison import chance_of_less, difference_interval, mcnemar
from wideresnet.metrics.unknown import ACCEPTED_SHARE, UnknownScore, auroc, energy, fit_unknown, fpr95

__all__ = [
    "ACCEPTED_SHARE",
    "TEMPERATURES",
    "Z_95",
    "Average",
    "ClassFigures",
    "ReliabilityBins",
    "RiskCoverage",
    "TwoClasses",
    "UnknownScore",
    "accuracy_interval",
    "auroc",
    "averages",
    "brier_score",
    "chance_of_less",
    "confusion_matrix",
    "difference_interval",
    "energy",
    "equal_mass_calibration_error",
    "expected_calibration_error",
    "fit_temperature",
    "fit_unknown",
    "fpr95",
    "log_softmax",
    "macro_f1",
    "macro_f1_interval",
    "mcnemar",
    "negative_log_likelihood",
    "per_class",
    "reliability_bins",
    "risk_coverage",
    "softmax",
    "top_k_accuracy",
    "two_classes",
]
