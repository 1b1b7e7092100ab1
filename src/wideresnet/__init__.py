"""Wide ResNets, from a folder of images to a model you can use. Names load on first use: importing costs no torch."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from wideresnet.arrival import call_when_imported

if TYPE_CHECKING:
    from wideresnet.detection import BoxEvaluation, BoxPredictor
    from wideresnet.dialects import create_model, list_models
    from wideresnet.errors import (
        DataError,
        Diverged,
        ImageError,
        Interrupted,
        ModelFileError,
        TrainingStopped,
        UsageError,
        WideResNetError,
    )
    from wideresnet.evaluation import Evaluation
    from wideresnet.explanation import Explanation
    from wideresnet.jobs import (
        BoxRun,
        DataCheck,
        Run,
        Tune,
        check_data,
        convert,
        evaluate,
        evaluate_detector,
        explain,
        find_lr,
        import_checkpoint,
        load,
        push_to_hub,
        resume,
        resume_tune,
        train,
        train_detector,
        tune,
    )
    from wideresnet.kernels import accelerate
    from wideresnet.model import WideResidualBlock, WideResNetBackbone, WideResNetClassifier, make_wide_layer
    from wideresnet.prediction import Prediction, Predictor
    from wideresnet.preprocess import Preprocess
    from wideresnet.runtime import Watch

_PUBLIC = {  # name → (room, its name there)
    "BoxEvaluation": ("detection", "BoxEvaluation"),
    "BoxPredictor": ("detection", "BoxPredictor"),
    "BoxRun": ("jobs", "BoxRun"),
    "DataCheck": ("jobs", "DataCheck"),
    "DataError": ("errors", "DataError"),
    "Diverged": ("errors", "Diverged"),
    "Evaluation": ("evaluation", "Evaluation"),
    "Explanation": ("explanation", "Explanation"),
    "ImageError": ("errors", "ImageError"),
    "Interrupted": ("errors", "Interrupted"),
    "ModelFileError": ("errors", "ModelFileError"),
    "Prediction": ("prediction", "Prediction"),
    "Predictor": ("prediction", "Predictor"),
    "Preprocess": ("preprocess", "Preprocess"),
    "Run": ("jobs", "Run"),
    "TrainingStopped": ("errors", "TrainingStopped"),
    "Tune": ("jobs", "Tune"),
    "UsageError": ("errors", "UsageError"),
    "Watch": ("runtime", "Watch"),
    "WideResNetBackbone": ("model", "WideResNetBackbone"),
    "WideResNetClassifier": ("model", "WideResNetClassifier"),
    "WideResNetError": ("errors", "WideResNetError"),
    "WideResidualBlock": ("model", "WideResidualBlock"),
    "accelerate": ("kernels", "accelerate"),
    "check_data": ("jobs", "check_data"),
    "convert": ("jobs", "convert"),
    "create_model": ("dialects", "create_model"),
    "evaluate": ("jobs", "evaluate"),
    "evaluate_detector": ("jobs", "evaluate_detector"),
    "explain": ("jobs", "explain"),
    "find_lr": ("jobs", "find_lr"),
    "import_checkpoint": ("jobs", "import_checkpoint"),
    "list_models": ("dialects", "list_models"),
    "load": ("jobs", "load"),
    "make_wide_layer": ("model", "make_wide_layer"),
    "push_to_hub": ("jobs", "push_to_hub"),
    "resume": ("jobs", "resume"),
    "resume_tune": ("jobs", "resume_tune"),
    "train": ("jobs", "train"),
    "train_detector": ("jobs", "train_detector"),
    "tune": ("jobs", "tune"),
}

__all__ = [
    "BoxEvaluation",
    "BoxPredictor",
    "BoxRun",
    "DataCheck",
    "DataError",
    "Diverged",
    "Evaluation",
    "Explanation",
    "ImageError",
    "Interrupted",
    "ModelFileError",
    "Prediction",
    "Predictor",
    "Preprocess",
    "Run",
    "TrainingStopped",
    "Tune",
    "UsageError",
    "Watch",
    "WideResNetBackbone",
    "WideResNetClassifier",
    "WideResNetError",
    "WideResidualBlock",
    "accelerate",
    "check_data",
    "convert",
    "create_model",
    "evaluate",
    "evaluate_detector",
    "explain",
    "find_lr",
    "import_checkpoint",
    "list_models",
    "load",
    "make_wide_layer",
    "push_to_hub",
    "resume",
    "resume_tune",
    "train",
    "train_detector",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    room, attribute = _PUBLIC[name]
    value = globals()[name] = getattr(import_module(f"{__name__}.{room}"), attribute)
    return value


def __dir__() -> list[str]:
    return __all__


call_when_imported("timm", "wideresnet.hub.timm_models:register")
