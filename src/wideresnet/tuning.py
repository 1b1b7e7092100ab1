"""Search over recipes: numbers to move, and a function that trains with them → trials, the best, and what mattered.

Optuna proposes and says what is not worth its last epochs; the study lies in one SQLite file, written after each epoch,
so that a search that was killed at any instant goes on. This room trains nothing and knows no data.
"""

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from wideresnet import runtime
from wideresnet.errors import Diverged, ModelFileError, TrainingStopped, UsageError, missing_extra, nearest
from wideresnet.recipes import Recipe

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True, slots=True)
class Axis:
    """A number that is searched, from `low` to `high`, both included; `log`: by factors instead of by steps."""

    field: str
    low: float
    high: float
    log: bool = False
    whole: bool = False


def _by_factors(name: str, own: float, down: float, up: float, otherwise: float) -> Axis:
    """From own/down to own·up; where the recipe has 0, which has no factors, from 0 to `otherwise`."""
    return Axis(name, own / down, own * up, log=True) if own else Axis(name, 0, otherwise)


SEARCHED: dict[str, Callable[[Recipe, int], Axis]] = {  # field → where to search it: (recipe, size) → axis
    # The one that matters most (Bengio 2012, section 2.1), by factors; less far up, where a training soon diverges.
    "lr": lambda recipe, _: _by_factors("lr", recipe.lr, 10, 4, 0.1),
    # A decade either way: with lr it sets how strongly BN's networks are held (van Laarhoven 2017), and good values lie
    # on a line of lr × weight_decay, so that a narrow range would only follow lr.
    "weight_decay": lambda recipe, _: _by_factors("weight_decay", recipe.weight_decay, 10, 10, 1e-3),
    # 0.1 is usual (Szegedy et al. 2016); beyond 0.2 nobody reports a gain on so few classes as ours.
    "label_smoothing": lambda recipe, _: Axis("label_smoothing", 0, max(0.2, recipe.label_smoothing)),
    # The paper's 0.125 of the size, and twice that: objects soon leave the picture.
    "crop_padding": lambda recipe, size: Axis(
        "crop_padding", 0, 0 if recipe.zoom < 1 else max(min(size // 4, size - 1), recipe.crop_padding), whole=True
    ),
    # Of the two that move pictures the recipe has one, and the other no room. 0.08 is usual (Szegedy et al. 2015).
    "zoom": lambda recipe, _: Axis("zoom", min(0.08, recipe.zoom) if recipe.zoom < 1 else 1, 1),
    # The paper has 0.3, and 0.4 for SVHN (section 3.3); in short trainings it mostly slows.
    "dropout_p": lambda recipe, _: Axis("dropout_p", 0, max(0.4, recipe.dropout_p)),
    # Up to a third of the training: after that too little is left to come down in.
    "warmup_epochs": lambda recipe, _: Axis(
        "warmup_epochs", 0, max(min(recipe.epochs / 3, recipe.epochs - recipe.swa_epochs), recipe.warmup_epochs)
    ),
}
"""Left out: batch_size and momentum, for at a given lr they only say the same thing again (Smith et al. 2018), and
epochs, of which more is better."""

_NAME, _DIVERGED = "recipe", "diverged"
# Twenty trials cannot map more dimensions than these; the others are for who asks for them.
USUAL = ("lr", "weight_decay", "label_smoothing", "crop_padding", "zoom")
MIN_FOR_IMPORTANCE = 8  # trials that ran to the end; of fewer, the trees of fANOVA say what chance says


class Pruned(Exception):  # noqa: N818 - not an error: raised by `report`, for a trial not worth its last epochs
    """Stops one trial; whoever trains lets it pass."""


Report = Callable[[float], None]
"""Takes the score after each epoch; raises Pruned."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One training: what it was given, and what came of it. `number` counts from 1 in the order in which they ended."""

    number: int
    state: Literal["done", "pruned", "diverged"]
    values: Mapping[str, float]
    score: float | None  # of a pruned one the last; None where it diverged
    epochs: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Study:
    """All trials that ended, and for each axis its share in the differences of their scores: {} if none can be said."""

    trials: tuple[Trial, ...]
    importance: Mapping[str, float] = field(default_factory=dict)

    @property
    def best(self) -> Trial:
        """Of those that ran to the end the one with the highest score; of equals the first, so the recipe's own.

        Raises Diverged if none did.
        """
        done = [trial for trial in self.trials if trial.state == "done"]
        if not done:
            raise Diverged(f"all {len(self.trials)} trials diverged; try a lower --lr")
        return max(done, key=lambda trial: trial.score or 0.0)  # max takes the first of equals


def check_fields(fields: Sequence[str], recipe: Recipe | None = None) -> None:
    """Raises UsageError on a field that cannot be searched, or has no effect under `recipe`."""
    if not fields:
        raise UsageError(f"--search: nothing to search; expected some of {', '.join(SEARCHED)}")
    for name in fields:
        if name not in SEARCHED:
            raise UsageError(f"--search {name}{nearest(name, SEARCHED)}")
        if list(fields).count(name) > 1:
            raise UsageError(f"--search {name}: named twice")
    if recipe is not None and "warmup_epochs" in fields and recipe.schedule == "steps":
        raise UsageError("--search warmup_epochs: the schedule 'steps' has no warm-up; leave it out, or set --schedule")


def axes_for(fields: Sequence[str], recipe: Recipe, size: int) -> tuple[Axis, ...]:
    """The axes of `fields`, around the recipe's own values; one without room (shifts of tiny pictures, the one of
    shifts and zoom that the recipe has not) is left out.

    Raises UsageError if none has any.
    """
    found = (SEARCHED[name](recipe, size) for name in fields)
    axes = tuple(axis for axis in found if axis.low < axis.high)
    if not axes:
        raise UsageError(f"--search {' '.join(fields)}: has one value alone at {size} pixels; search others")
    return axes


def check_installed() -> None:
    """Raises UsageError with the line that brings Optuna, where it is missing."""
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise missing_extra("searching hyper-parameters (Optuna)", "tune") from error


def search(
    file: Path,
    axes: Sequence[Axis],
    own: Mapping[str, float],
    objective: Callable[[int, Mapping[str, float], Report], float],
    *,
    seed: int,
    num_trials: int,
    epochs: int,
    ended: Callable[[Sequence[Trial]], None] = lambda _: None,
) -> Study:
    """Runs trials until `num_trials` have ended, those in `file` included; calls `ended` with all of them
    after each.

    objective(number, values, report) → score, the higher the better; it calls report(score) after each epoch. The first
    trial has `own` values. What the n-th is given is a function of (seed, n, what came of those before it): a trial
    that was cut short leaves no trace but its row, so that a search that goes on proposes what it would have proposed.
    One that raises Diverged is a trial like another; any other error ends the search, and `file` is whole.
    """
    import optuna

    distributions = {axis.field: _distribution(axis) for axis in axes}
    # Median, not Hyperband: that one divides the trials into brackets by how soon it prunes them, and twenty are too
    # few to fill these. A third of the epochs is left to everyone: while lr is high, scores are not yet in their order.
    pruner = optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=epochs // 3 + 1)
    states = optuna.trial.TrialState
    with _opened(file) as storage:
        study = optuna.create_study(
            storage=storage, pruner=pruner, study_name=_NAME, direction="maximize", load_if_exists=True
        )
        for left in study.get_trials(deepcopy=False, states=(states.RUNNING,)):
            study.tell(left.number, state=states.FAIL)  # a kill left it
        while (number := len(_ended(study)) + 1) <= num_trials:
            study.sampler = optuna.samplers.TPESampler(seed=runtime.derive_seed(seed, "search", number) % 2**32)
            if number == 1 and not study.get_trials(deepcopy=False, states=(states.WAITING,)):
                study.enqueue_trial({name: own[name] for name in distributions})
            _run(study, study.ask(distributions), number, objective, epochs)
            ended(_ended(study))
        return Study(tuple(_ended(study)), _importance(study, seed))


def _run(
    study: "optuna.Study", trial: "optuna.Trial", number: int, objective: Callable[..., float], epochs: int
) -> None:
    """One trial, told to the study whatever comes of it."""
    import optuna

    states, step = optuna.trial.TrialState, 0

    def report(score: float) -> None:
        nonlocal step
        step += 1
        trial.report(score, step)
        if step < epochs and trial.should_prune():
            raise Pruned

    try:
        score = objective(number, trial.params, report)
    except Pruned:
        study.tell(trial, state=states.PRUNED)
    except Diverged as error:
        trial.set_user_attr(_DIVERGED, str(error))
        study.tell(trial, state=states.PRUNED)  # the sampler ranks it low, as it does what is pruned early
    except BaseException:
        study.tell(trial, state=states.FAIL)
        raise
    else:
        study.tell(trial, score)


def _ended(study: "optuna.Study") -> list[Trial]:
    from optuna.trial import TrialState

    trials = []
    for number, row in enumerate(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)), 1):
        diverged = _DIVERGED in row.user_attrs
        trials.append(
            Trial(
                number=number,
                state="diverged" if diverged else "done" if row.state == TrialState.COMPLETE else "pruned",
                values=dict(row.params),
                score=None if diverged else row.value,
                epochs=len(row.intermediate_values),
                seconds=0.0 if row.duration is None else round(row.duration.total_seconds(), 3),
            )
        )
    return trials


def _importance(study: "optuna.Study", seed: int) -> dict[str, float]:
    """Of each axis, summing to 1; {} where the trials that ran to the end are too few, or all came to the same."""
    import optuna

    scores = [row.value for row in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))]
    if len(scores) < MIN_FOR_IMPORTANCE or len(set(scores)) < 2:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=runtime.derive_seed(seed, "importance") % 2**32)
    found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {name: float(share) for name, share in found.items()}


def _distribution(axis: Axis) -> "optuna.distributions.BaseDistribution":
    from optuna.distributions import FloatDistribution, IntDistribution

    if axis.whole:
        return IntDistribution(int(axis.low), int(axis.high), log=axis.log)
    return FloatDistribution(axis.low, axis.high, log=axis.log)


@contextmanager
def _opened(file: Path) -> "Iterator[optuna.storages.RDBStorage]":
    """The study's file; Optuna says only what is wrong. SQLite needs no server, and its writes are whole or not at all.

    Raises ModelFileError if the file is no study, TrainingStopped if it cannot be written.
    """
    import optuna
    import sqlalchemy

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # Not by URL, in which a path with a question mark would end there.
    options = {"creator": lambda: sqlite3.connect(file, timeout=60), "poolclass": sqlalchemy.pool.StaticPool}
    storage = None
    try:
        storage = optuna.storages.RDBStorage("sqlite://", engine_kwargs=options)
        yield storage
    except sqlalchemy.exc.OperationalError as error:
        raise TrainingStopped(f"{file}: cannot be written: {error.orig}") from error
    except sqlalchemy.exc.DatabaseError as error:
        raise ModelFileError(f"{file}: no study of a search, or damaged: {error.orig}; tune anew") from error
    except optuna.exceptions.StorageInternalError as error:
        raise TrainingStopped(f"{file}: cannot be written: {error.__cause__ or error}") from error
    finally:
        optuna.logging.set_verbosity(before)
        if storage is not None:
            storage.engine.dispose()
