"""`demo`: the main job from end to end on the embedded digits: train, report, predict a picture kept aside."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from wideresnet import data as data_room
from wideresnet import runs, runtime
from wideresnet.jobs.running import Run
from wideresnet.jobs.training import train
from wideresnet.prediction import Prediction, Predictor

DATA = "digits"


@dataclass(frozen=True, slots=True, eq=False)
class Demo:
    run: Run
    picture: Path  # of the test part, which training never saw
    truth: str
    prediction: Prediction

    @property
    def report(self) -> Path:
        return self.run.folder / runs.REPORT


def demo(out: str | Path | None = None, *, watch: runtime.Watch = runtime.PRINT) -> Demo:
    """Trains on the digits with every default; then predicts one test picture, written as a PNG, from its file."""
    run = train(DATA, out=out, watch=watch)
    evaluation, listing = run.evaluation, data_room.read(DATA).splits["all"]
    name = evaluation.names[0]
    picture = run.folder / "kept_aside.png"
    Image.fromarray(np.asarray(listing.sources[listing.names.index(name)])).save(picture)
    truth = evaluation.class_names[int(evaluation.labels[0])]
    return Demo(run, picture, truth, Predictor(run.folder)(picture))
