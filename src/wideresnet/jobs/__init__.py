"""Each job strings rooms together in one screen; the commands and Python call these, and neither decides anything."""

from wideresnet.jobs.demo import demo
from wideresnet.jobs.evaluation import evaluate
from wideresnet.jobs.overview import describe_machine, describe_model, list_models, list_runs
from wideresnet.jobs.prediction import predict
from wideresnet.jobs.training import Run, resume, train

__all__ = [
    "Run",
    "demo",
    "describe_machine",
    "describe_model",
    "evaluate",
    "list_models",
    "list_runs",
    "predict",
    "resume",
    "train",
]
