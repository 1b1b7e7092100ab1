"""`find_lr`: data → the learning rate to train with, and a picture of why. Leaves no run and no model."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Unpack

from wideresnet import data as data_room
from wideresnet import engines, files, kinds, lr_range, processes, report, runs, runtime
from wideresnet.errors import UsageError
from wideresnet.jobs import transfer
from wideresnet.jobs.planning import plan
from wideresnet.jobs.preparation import fit_to_data, prepare
from wideresnet.lr_range import LrRange
from wideresnet.processes import ALONE
from wideresnet.reading import Reading
from wideresnet.recipes import RecipeChanges


@dataclass(frozen=True, slots=True, eq=False)
class LrSearch:
    """What `find_lr` finds: the suggested `lr`, the curve it comes from, its picture, and the command to use it."""

    lr: float
    curve: LrRange
    plot: Path
    command: str


@kinds.checked
def find_lr(
    data: str | Path,
    *,
    arch: str | None = None,
    recipe: str | None = None,
    size: int | None = None,
    in_channels: int | None = None,
    fit: Literal["crop", "squash", "pad"] = "crop",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    init: str | Path | None = None,
    from_model: str | Path | None = None,
    pretrained: bool = False,
    freeze: Sequence[str] = (),
    seed: int = 0,
    device: str = "auto",
    engine: engines.Name = "auto",
    out: str | Path | None = None,
    max_bad: int | None = 0,
    labels: int | None = None,
    cache: data_room.Cache = "auto",
    image_column: str | None = None,
    label_column: str | None = None,
    split_column: str | None = None,
    group_column: str | None = None,
    download: bool = False,
    max_pixels: int | None = None,
    watch: runtime.Watch = runtime.PRINT,
    **changes: Unpack[RecipeChanges],
) -> LrSearch:
    """Tries learning rates on a network that is thrown away; the options are those of `train`.

    out: the PNG picture, runs/NAME-lr.png if not given. Raises as `train` does, before anything is written.
    """
    processes.check_alone("train --find-lr")
    if changes.get("lr") is not None:
        raise UsageError("--find-lr looks for the learning rate; leave --lr out")
    if out is not None and Path(out).suffix.lower() != ".png":
        raise UsageError(f"--out {out}: with --find-lr the picture's file; expected a name ending in .png")
    if out is not None and Path(out).exists():
        raise UsageError(f"--out {out}: exists already, and may be a picture of yours; choose another")
    planned = plan(
        data,
        changes,
        arch=arch,
        recipe=recipe,
        size=size,
        in_channels=in_channels,
        fit=fit,
        mean=mean,
        std=std,
        init=transfer.named_once(init, from_model),
        pretrained=pretrained,
        freeze=freeze,
        seed=seed,
        device=device,
        engine=engine,
        max_bad=max_bad,
        labels=labels,
        folds=None,
        reading=Reading(
            image_column=image_column,
            label_column=label_column,
            split_column=split_column,
            group_column=group_column,
            download=download,
            max_pixels=max_pixels,
        ),
        watch=watch,
        world=ALONE,
    )
    prepared = fit_to_data(prepare(planned.config, planned.listing, watch, source=planned.source, cache=cache))
    config = prepared.config
    with engines.threads(config.engine, config.threads), runtime.memory_kept(), data_room.workers_watched():
        curve = lr_range.run(
            prepared.new_state(),
            prepared.task.batches(prepared),
            prepared.task.loss(prepared),
            recipe=config.recipe,
            seed=config.seed,
            watch=watch,
        )
    plot = Path("runs") / f"{runs.slug(prepared.name)}-lr.png" if out is None else Path(out)
    files.write_whole(plot, report.lr_plot(curve.lrs, curve.losses, curve.smoothed, curve.suggested))
    found = dataclasses.replace(config, recipe=dataclasses.replace(config.recipe, lr=curve.suggested))
    return LrSearch(curve.suggested, curve, plot, found.command)
