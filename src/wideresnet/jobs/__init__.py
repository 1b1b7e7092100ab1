"""Each job strings rooms together in one screen; the commands and Python call these, and neither decides anything."""

from wideresnet.jobs.demo import demo
from wideresnet.jobs.evaluation import evaluate
from wideresnet.jobs.lr_range import LrSearch, find_lr
from wideresnet.jobs.overview import describe_machine, describe_model, list_models, list_runs
from wideresnet.jobs.prediction import listed, predict
from wideresnet.jobs.training import Run, resume, train
from wideresnet.jobs.tuning import Tune, resume_tune, tune

__all__ = [
    "LrSearch",
    "Run",
    "Tune",
    "demo",
    "describe_machine",
    "describe_model",
    "evaluate",
    "find_lr",
    "list_models",
    "list_runs",
    "listed",
    "predict",
    "resume",
    "resume_tune",
    "train",
    "tune",
]
