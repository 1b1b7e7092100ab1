"""Each job strings rooms together in one screen; the commands and Python call these, and neither decides anything."""

from wideresnet.jobs.candidates import Candidate, described
from wideresnet.jobs.checking import DataCheck, check_data
from wideresnet.jobs.converting import Converted, convert
from wideresnet.jobs.demo import demo
from wideresnet.jobs.detectors import evaluate_detector, train_detector
from wideresnet.jobs.evaluation import evaluate
from wideresnet.jobs.explanation import Explained, explain, explain_files
from wideresnet.jobs.finding import BoxAnswer, as_coco, find_boxes
from wideresnet.jobs.importing import DATA_SETS, Imported, import_checkpoint
from wideresnet.jobs.lr_range import LrSearch, find_lr
from wideresnet.jobs.overview import describe_machine, describe_model, list_dialects, list_models, list_runs
from wideresnet.jobs.prediction import listed, predict
from wideresnet.jobs.running import BoxRun, Run
from wideresnet.jobs.sharing import load, push_to_hub
from wideresnet.jobs.training import resume, train
from wideresnet.jobs.tuning import Tune, resume_tune, tune

__all__ = [
    "DATA_SETS",
    "BoxAnswer",
    "BoxRun",
    "Candidate",
    "Converted",
    "DataCheck",
    "Explained",
    "Imported",
    "LrSearch",
    "Run",
    "Tune",
    "as_coco",
    "check_data",
    "convert",
    "demo",
    "describe_machine",
    "describe_model",
    "described",
    "evaluate",
    "evaluate_detector",
    "explain",
    "explain_files",
    "find_boxes",
    "find_lr",
    "import_checkpoint",
    "list_dialects",
    "list_models",
    "list_runs",
    "listed",
    "load",
    "predict",
    "push_to_hub",
    "resume",
    "resume_tune",
    "train",
    "train_detector",
    "tune",
]
