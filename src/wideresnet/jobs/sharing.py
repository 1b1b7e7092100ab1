"""`load` and `push_to_hub`: a model from wherever it is → what predicts; a model → Hugging Face's hub."""

from collections.abc import Sequence
from pathlib import Path

from wideresnet import engines, hub, kinds
from wideresnet.model import WideResNetClassifier
from wideresnet.prediction import Predictor
from wideresnet.preprocess import Preprocess


@kinds.checked
def load(
    model: str | Path,
    device: str = "auto",
    *,
    engine: engines.Name = "auto",
    abstain: float | None = None,
    download: bool = False,
) -> Predictor:
    """A run folder, a model file, or "hf:OWNER/NAME" (also "hf:OWNER/NAME@REVISION") of Hugging Face's hub: ready to
    answer. What is on the hub is fetched only if `download`, else taken from that library's cache. `engine`: what
    computes; auto takes our kernels on a CPU where they were built and know the network, else torch. abstain: as
    `Predictor`'s.

    Raises ModelFileError if it is no model, UsageError on a device or engine that is not there or a missing extra.
    """
    return Predictor(hub.model_file(model, download=download), device, engine, abstain)


@kinds.checked
def push_to_hub(
    model: str | Path | WideResNetClassifier,
    name: str,
    *,
    class_names: Sequence[str] | None = None,
    preprocess: Preprocess | None = None,
    private: bool | None = None,
) -> str:
    """Puts a run folder or model file, or a network with its `class_names` and `preprocess`, into the repository
    OWNER/NAME of Hugging Face's hub: the model file, and a README made from its card. Gives the commit's address.

    The repository is made if need be; `private` as there. Raises UsageError where the hub refuses, and ModelFileError
    if it is no model.
    """
    return hub.HubModel(model, class_names=class_names, preprocess=preprocess).push_to_hub(name, private=private)
