"""`wrn tune`."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from wideresnet.cli.console import percent, print_table, say, watching
from wideresnet.cli.trainings import AS_FOUND, UNTOUCHED, ReadingOptions, count_or_all
from wideresnet.errors import UsageError
from wideresnet.recipes import RecipeChanges

if TYPE_CHECKING:
    from wideresnet.jobs import Tune

_SHOWN = 10  # trials on the screen; all are in trials.csv


def tune(
    data: str | None = None,
    /,
    *,
    resume: Path | None = None,
    trials: int | None = None,
    search: Annotated[tuple[str, ...] | None, Parameter(consume_multiple=True, negative=())] = None,
    arch: str | None = None,
    recipe: str | None = None,
    size: int | None = None,
    in_channels: int | None = None,
    fit: Literal["crop", "squash", "pad"] = "crop",
    mean: Annotated[tuple[float, ...] | None, Parameter(consume_multiple=True, negative=())] = None,
    std: Annotated[tuple[float, ...] | None, Parameter(consume_multiple=True, negative=())] = None,
    init: Annotated[Path | None, Parameter(name=["--init", "--from"])] = None,
    pretrained: Annotated[bool, Parameter(negative=())] = False,
    freeze: Annotated[tuple[str, ...] | None, Parameter(negative=())] = None,
    seed: int = 0,
    device: str = "auto",
    engine: Literal["auto", "kernels", "torch"] = "auto",
    out: Path | None = None,
    max_bad: str = "0",
    labels: int | None = None,
    reading: ReadingOptions = AS_FOUND,
    cache: Literal["auto", "memory", "disk", "off"] = "auto",
    allow_changed: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    changes: Annotated[RecipeChanges | None, Parameter(name="*", group="Recipe")] = None,
) -> None:
    """Search the recipe's numbers on DATA: many trainings, judged on val. Ends with the command of the best.

    Parameters
    ----------
    data
        As in `wrn train`; its test part is never looked at.
    resume
        Go on with this search; of the other options only --trials, --cache and --allow-changed are given then.
    trials
        Trainings in all, those before --resume included; 20 if not given. The first is the recipe as it is.
    search
        Fields of the recipe to search around their values: lr weight_decay label_smoothing and crop_padding (or zoom,
        where the recipe has that instead) if not given; also dropout_p and warmup_epochs.
    arch
        Network: wrn_DEPTH_WIDEN as in wrn_28_10, or wrn_28_10.paper; see `wrn models`. Another family's, for large
        photographs: torchvision:NAME or timm:NAME, as torchvision:wide_resnet50_2.
    recipe
        fast (ours, for a small budget), strong (three times as long, stronger augmentation), paper (200 epochs, the
        original's) or finetune (with --init or --pretrained, and then the default).
    size
        Side in pixels that pictures are resized to.
    in_channels
        3 for colour, 1 for grey; the model's own with --init, whose first layer is summed up or spread if it differs.
    fit
        How a picture becomes square: crop, squash or pad.
    mean
        Mean of each channel in [0, 1]; of the training pictures if not given.
    std
        Standard deviation of each channel in [0, 1]; likewise.
    init
        Begin each trial with the weights of this run folder, model file or hf:OWNER/NAME: network, mean and std are
        its own.
    pretrained
        Begin each trial with the weights that torchvision or timm publishes for --arch, as in `wrn train`.
    freeze
        Parts that are not trained, BN statistics too: stem stage1 stage2 stage3 bn fc, or backbone for all but fc.
    seed
        All that is random follows from it.
    device
        auto, cpu, cuda or mps.
    engine
        What computes: kernels (our own, on a CPU, in fp32, where they were built and know the network) or torch; auto
        takes the first of these that can.
    out
        Folder of the search; tunes/NAME-N if not given.
    max_bad
        How many unreadable pictures may be left out, or all.
    labels
        Train on so many pictures of each class only, drawn by the seed; val stays whole.
    cache
        Where decoded pictures are kept: memory; disk, for the next run to start at once; off, decoded anew in each
        epoch; auto chooses by their size and what is free. No result changes with it.
    allow_changed
        With --resume: as in `wrn train`.
    """
    from wideresnet import jobs

    options: dict[str, Any] = {
        "search": search,
        "arch": arch,
        "recipe": recipe,
        "size": size,
        "in_channels": in_channels,
        "fit": fit,
        "mean": mean,
        "std": std,
        "init": init,
        "pretrained": pretrained,
        "freeze": freeze,
        "seed": seed,
        "device": device,
        "engine": engine,
        "out": out,
        "max_bad": count_or_all(max_bad),
        "labels": labels,
        **dataclasses.asdict(reading),
        **(changes or {}),
    }
    options = {name: value for name, value in options.items() if value is not None or name == "max_bad"}
    if allow_changed and resume is None:
        raise UsageError("--allow-changed is for --resume FOLDER: a new search is begun as things are")
    with watching() as watch:
        if resume is not None:
            if data is not None or options != UNTOUCHED:
                raise UsageError(
                    "--resume FOLDER goes with --trials alone (and --cache): data and options are the search's own"
                )
            done = jobs.resume_tune(resume, trials=trials, allow_changed=allow_changed, cache=cache, watch=watch)
        elif data is None:
            raise UsageError("nothing to search on: wrn tune DATA, or wrn tune --resume FOLDER; try wrn tune digits")
        else:
            done = jobs.tune(data, trials=20 if trials is None else trials, cache=cache, watch=watch, **options)
    _print(done)


def _print(done: "Tune") -> None:
    study = done.study
    best_first = sorted(study.trials, key=lambda trial: (trial.state != "done", -(trial.score or 0)))
    fields = list(study.trials[0].values)
    columns = {"trial": "right", "score": "right"} | dict.fromkeys(fields, "right") | {"state": "left"}
    rows = [
        [str(t.number), percent(t.score), *(f"{t.values[name]:.3g}" for name in fields), t.state] for t in best_first
    ]
    print_table("", columns, rows[:_SHOWN])
    print(f"report:  {done.folder / 'report.html'}")
    print(f"best:    {done.command}")
    say(f"longer:  wrn tune --resume {done.folder} --trials {2 * len(study.trials)}")
