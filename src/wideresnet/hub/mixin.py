"""`HubModel`: a model file or a network of ours with the methods that Hugging Face's users know. Needs the extra."""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from wideresnet import kinds
from wideresnet.checkpoint import Card, load_model, save_model
from wideresnet.errors import UsageError, WideResNetError, missing_extra
from wideresnet.hub.huggingface import FILE, Repository, fetch, quiet, readme, short
from wideresnet.model import WideResNetClassifier
from wideresnet.prediction import Predictor
from wideresnet.preprocess import Preprocess

try:
    from huggingface_hub import ModelCard, ModelHubMixin, get_token
    from huggingface_hub.errors import HFValidationError
except ImportError as error:
    raise missing_extra("Hugging Face", "hub") from error


class HubModel(Predictor, ModelHubMixin):
    """A predictor that can be saved as a repository and pushed: `push_to_hub("me/flowers")`, `save_pretrained(folder)`,
    `HubModel.from_pretrained("me/flowers")`, as `ModelHubMixin` documents them. A repository is our model file and a
    README made from its card; there is no config.json, for the model file says all.
    """

    _pushing = False

    @kinds.checked
    def __init__(
        self,
        model: str | Path | WideResNetClassifier,
        *,
        class_names: Sequence[str] | None = None,
        preprocess: Preprocess | None = None,
        device: str = "auto",
    ) -> None:
        """`model`: a run folder or model file, or a network, which needs `class_names` and `preprocess` to predict.
        Raises UsageError where these are missing or too much, ModelFileError if it cannot be a model file."""
        self._hub_mixin_config = None  # else the mixin writes the arguments above into config.json
        if isinstance(model, nn.Module):
            if class_names is None or preprocess is None:
                raise UsageError("a network alone cannot predict: give class_names=[…] and preprocess=Preprocess(…)")
            if preprocess.channels != model.architecture["in_channels"]:
                raise UsageError(
                    f"a preprocess of {preprocess.channels} channels for a network of "
                    f"{model.architecture['in_channels']}; mean and std have one number a channel"
                )
            self._kept = tempfile.TemporaryDirectory(prefix="wrn-")
            self.path = Path(self._kept.name) / FILE
            card = Card(architecture=model.architecture, class_names=tuple(class_names), preprocess=preprocess)
            save_model(self.path, model.state_dict(), card)
        else:
            if class_names is not None or preprocess is not None:
                raise UsageError(f"{model}: its classes and preprocessing are in the file; leave both out")
            self.path = Path(model) / FILE if Path(model).is_dir() else Path(model)
        super().__init__(self.path, device)  # reads it back, so that what cannot be read is never pushed

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """As the mixin's: gives the address of the commit. README.md is written anew, unless
        ignore_patterns="README.md". Raises UsageError where the hub refuses."""
        self._pushing = True  # then the folder to save to is OWNER/NAME, in full
        try:
            with quiet():
                return str(super().push_to_hub(repo_id, **options))
        except HFValidationError as error:
            raise UsageError(f"{repo_id!r}: expected OWNER/NAME, as in someone/flowers") from error
        except WideResNetError:
            raise
        except Exception as error:  # as in `fetch`
            hint = "" if get_token() else ". Nobody is logged in here: `hf auth login`"
            raise UsageError(f"{repo_id}: cannot be pushed: {short(error)}{hint}") from error
        finally:
            self._pushing = False

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> str | None:
        folder = Path(save_directory)
        owner = folder.parent.name if self._pushing else "OWNER"
        self._repository = options.get("repo_id") or f"{owner}/{folder.absolute().name}"
        return super().save_pretrained(save_directory, **options)

    def _save_pretrained(self, save_directory: Path) -> None:
        target = save_directory / FILE
        if target.exists() and target.samefile(self.path):
            return
        if (save_directory / "config.json").exists() and (save_directory / "metrics.csv").exists():
            raise UsageError(f"{save_directory}: a run, whose model would be lost; name another folder")
        shutil.copyfile(self.path, target)

    def generate_model_card(self, *_: Any, **__: Any) -> ModelCard:
        return ModelCard(readme(load_model(self.path), self._repository))

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        force_download: bool = False,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        revision: str | None = None,
        **model_kwargs: Any,
    ) -> "HubModel":
        """A folder that was saved, or OWNER/NAME on the hub. As everywhere with this mixin, a name is asked for on the
        network unless `local_files_only` or HF_HUB_OFFLINE=1. Errors as `wrn.load`."""
        path = Path(pretrained_model_name_or_path)
        if not path.is_dir():
            path = fetch(
                Repository(str(pretrained_model_name_or_path), revision),
                download=not local_files_only,
                force_download=force_download,
                token=token,
                cache_dir=cache_dir,
            )
        return cls(path, **model_kwargs)
