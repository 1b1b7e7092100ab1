"""One frozen set of hyper-parameters, checked when it is made, and the fields of it that a user may set."""

import math
import sys
from dataclasses import dataclass
from typing import Literal, TypedDict, get_args

from wideresnet.errors import UsageError, nearest

Schedule = Literal["steps", "cosine", "one-cycle"]
FlipBy = Literal["turns", "chance"]
Policy = Literal["none", "trivial", "rand"]
Precision = Literal["fp32", "bf16", "fp16"]
OnNan = Literal["stop", "rollback"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Hyper-parameters of one training with SGD. Raises UsageError on a value that cannot be, naming it."""

    name: str
    times_default: float = 0.0  # above 0: so many times the epochs of `defaults`, and its batch size; lr in proportion
    epochs: int
    batch_size: int
    lr: float  # the highest of the schedule, for this batch_size
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    decay_norm_and_bias: bool = False  # weight decay on BN's scales and shifts and on biases too
    schedule: Schedule = "cosine"
    warmup_epochs: float = 0.0  # cosine: linear from 0; one-cycle: the rising part
    milestones: tuple[int, ...] = ()  # steps: lr × gamma from the start of each of these epochs, counted from 1
    gamma: float = 0.2
    forget_momentum: bool = False  # steps: SGD's momentum begins at nothing at each milestone
    label_smoothing: float = 0.0
    ema_decay: float = 0.0  # 0: no average; else weights are averaged, BN's buffers copied
    dropout_p: float = 0.0
    flip: bool = True
    flip_by: FlipBy = "turns"  # mirrored in every other epoch, or drawn anew in each, with probability 1/2
    crop_padding: int = 0  # reflect-pad by so many pixels, crop back at random
    zoom: float = 1.0  # below 1: instead, crops of at least this share of the area, enlarged
    policy: Policy = "none"  # TrivialAugment-Wide, or RandAugment with 2 operations at magnitude 9
    jitter: tuple[float, ...] = ()  # strengths of changes of brightness, contrast, saturation, hue
    cutout: int = 0  # side in pixels of a square set to the mean
    erasing: float = 0.0  # probability of a rectangle of 2 to 33 % set to the mean
    mixup: float = 0.0  # α of Beta(α, α); with cutmix too, one of them for each batch
    cutmix: float = 0.0
    drop_last: bool = True  # the last, short batch of an epoch is left out
    select: Literal["best", "last"] = "best"  # "last" trains on our own val part too, and takes the last epoch
    sync_bn: bool = False  # of several processes: BN over the batch of all, instead of each over its own part
    early_stopping: int = 0  # above 0: ends after so many epochs without a better score on val
    swa_epochs: int = 0  # the last so many epochs at a constant lr, their weights averaged (Izmailov et al. 2018)
    sam_rho: float = 0.0  # above 0: SAM, radius of the neighbourhood (Foret et al. 2021)
    clip_norm: float = 0.0  # above 0: the gradient over all parameters is scaled down to this norm where it is longer
    accumulate: int = 1  # parts that a batch is computed in, one after the other; BN sees each part alone
    precision: Precision = "fp32"  # of the multiplications; weights, BN and the loss stay float32
    compile: bool = False  # the network through torch.compile while it trains
    class_weights: bool = False  # pictures weigh in the loss by 1 / the number of their class
    balanced: bool = False  # each epoch draws as many pictures of each class
    on_nan: OnNan = "stop"  # or "rollback": where the loss is not finite, back to the last checkpoint with a lower lr
    layer_decay: float = 1.0  # the head learns at lr, each part before it at so much of the rate of the next

    def __post_init__(self) -> None:
        limits: dict[str, tuple[float, float]] = {  # inclusive
            "epochs": (1, math.inf),
            "batch_size": (1, math.inf),
            "lr": (0, math.inf),
            "momentum": (0, 1),
            "weight_decay": (0, math.inf),
            "warmup_epochs": (0, self.epochs),
            "gamma": (0, 1),
            "label_smoothing": (0, 1),
            "ema_decay": (0, 1),
            "dropout_p": (0, 1),
            "crop_padding": (0, math.inf),
            "zoom": (0.01, 1),
            "cutout": (0, math.inf),
            "erasing": (0, 1),
            "mixup": (0, math.inf),
            "cutmix": (0, math.inf),
            "early_stopping": (0, math.inf),
            "swa_epochs": (0, self.epochs - 1),
            "sam_rho": (0, math.inf),
            "clip_norm": (0, math.inf),
            "accumulate": (1, self.batch_size),
            "layer_decay": (0.01, 1),
        }
        half_open = {"momentum", "label_smoothing", "ema_decay", "dropout_p"}
        for field, (low, high) in limits.items():
            value = getattr(self, field)
            most = min(high, 2**53 if isinstance(value, int) else sys.float_info.max)
            if not low <= value <= most or (field in half_open and value == high):
                end = ")" if field in half_open or high == math.inf else "]"
                shown = most if isinstance(value, int) and value > most else high
                raise UsageError(f"{field}={value}: expected a value in [{low:g}, {shown:g}{end}")
        kinds = {"schedule": get_args(Schedule), "policy": get_args(Policy), "precision": get_args(Precision)}
        kinds |= {"flip_by": get_args(FlipBy), "on_nan": get_args(OnNan)}
        for field, names in kinds.items():
            if (name := getattr(self, field)) not in names:
                raise UsageError(f"{field}={name!r}{nearest(name, names)}")
        if self.jitter and (len(self.jitter) != 4 or not all(0 <= value < math.inf for value in self.jitter)):
            raise UsageError(
                f"jitter={self.jitter}: expected four strengths from 0: of brightness, contrast, saturation and hue"
            )
        if self.jitter and self.jitter[3] > 0.5:
            raise UsageError(f"jitter={self.jitter}: the hue is turned by at most half a turn, 0.5")
        if self.nesterov and self.momentum == 0:
            raise UsageError("nesterov needs a momentum above 0; set --no-nesterov or a momentum")
        for refused, why in self._apart():
            if refused:
                raise UsageError(why)

    def _apart(self) -> tuple[tuple[bool, str], ...]:
        """What does not go together, and why."""
        swa, early = self.swa_epochs > 0, self.early_stopping > 0
        return (
            (
                self.zoom < 1 and self.crop_padding > 0,
                f"zoom={self.zoom} and crop_padding={self.crop_padding} both move pictures; give one",
            ),
            (early and self.select == "last", "early_stopping goes by val, select='last' has none; set --select best"),
            (early and swa, "early_stopping may end before the last epochs, which swa_epochs averages; give one"),
            (swa and self.ema_decay > 0, "ema_decay and swa_epochs both average the weights; give one"),
            (
                swa and self.swa_epochs > self.epochs - self.warmup_epochs,
                f"swa_epochs={self.swa_epochs} of {self.epochs} epochs begin before the warm-up "
                f"({self.warmup_epochs:g} epochs) has ended; give fewer, or a shorter --warmup-epochs",
            ),
            (
                self.sam_rho > 0 and self.precision == "fp16",
                "sam_rho needs the gradient as it is, and fp16 scales it; set --precision bf16 or fp32",
            ),
            (
                self.class_weights and self.balanced,
                "class_weights and balanced both make up for rare classes, together they would do so twice; give one",
            ),
        )


class RecipeChanges(TypedDict, total=False):
    """The fields of a recipe that a user may set; absent or None leaves the recipe's (or the data's) own.

    Parameters
    ----------
    epochs
        Passes over the training pictures.
    batch_size
        Pictures for one update.
    lr
        Learning rate, the highest of the schedule.
    momentum
        Of SGD.
    nesterov
        Nesterov's form of it.
    weight_decay
        L2 penalty of SGD.
    decay_norm_and_bias
        Weight decay on BN and biases too.
    schedule
        How the learning rate moves: in steps, cosine to 0, one-cycle.
    warmup_epochs
        Epochs in which it rises.
    milestones
        With steps: epochs, counted from 1, at whose start it is multiplied by gamma.
    gamma
        See milestones.
    forget_momentum
        With steps: begin without momentum at each milestone, as the original does.
    label_smoothing
        Share of the target spread over all classes.
    ema_decay
        Of the running average of the weights; 0 for none.
    dropout_p
        Dropout between the two convolutions of a block.
    flip
        Mirror images; by default where a mirror image is of the same class.
    flip_by
        Mirror each picture in turns, every other epoch, or by chance, half the time.
    crop_padding
        Random shifts of up to so many pixels; by default an eighth of the size.
    zoom
        Instead of shifts: crops of at least this share of the picture's area, enlarged; 1 for none.
    policy
        One change of shape or colour a picture (trivial: TrivialAugment-Wide) or two (rand: RandAugment).
    jitter
        Random changes of brightness, contrast, saturation and hue: four strengths, as 0.4 0.4 0.4 0.1.
    cutout
        A square of this side in pixels, anywhere, set to the mean colour; 0 for none.
    erasing
        Probability that a random rectangle is set to the mean colour.
    mixup
        Mix pairs of pictures, and their labels, by shares from Beta(α, α); 0 for none.
    cutmix
        Put a box of one picture into another, with its share of the label from Beta(α, α); 0 for none.
    drop_last
        Leave out the last, short batch of an epoch.
    select
        Keep the epoch best on val, or the last one, trained on our own val part too.
    sync_bn
        With several processes: BN statistics of the batch of all, instead of each of its own part.
    early_stopping
        End after so many epochs without a better score on val; 0 for never.
    swa_epochs
        Average the weights of the last so many epochs, which keep one learning rate (SWA); 0 for none.
    sam_rho
        Sharpness-aware minimisation with this radius, as 0.05; twice the work for each update. 0 for none.
    clip_norm
        Scale a longer gradient down to this norm; 0 for never.
    accumulate
        Compute each batch in so many parts, for networks or pictures that the memory holds few of at once.
    precision
        Of the multiplications: fp32, bf16 or fp16 (with a loss scaler).
    compile
        Train through torch.compile: some minutes of compiling at the start, faster steps after.
    class_weights
        Weigh each picture in the loss by 1 / the number of its class, for classes of unequal numbers.
    balanced
        Draw as many pictures of each class in every epoch, those of rare classes repeatedly.
    on_nan
        Where the loss is no number or explodes: stop, or go back to the last checkpoint with a quarter of the learning
        rate, at most three times (rollback).
    layer_decay
        The head learns at lr, stage3 at this times that, stage2 at this times stage3's, and so on; 1 for one rate.
    """

    epochs: int | None
    batch_size: int | None
    lr: float | None
    momentum: float | None
    nesterov: bool | None
    weight_decay: float | None
    decay_norm_and_bias: bool | None
    schedule: Schedule | None
    warmup_epochs: float | None
    milestones: tuple[int, ...] | None
    gamma: float | None
    forget_momentum: bool | None
    label_smoothing: float | None
    ema_decay: float | None
    dropout_p: float | None
    flip: bool | None
    flip_by: FlipBy | None
    crop_padding: int | None
    zoom: float | None
    policy: Policy | None
    jitter: tuple[float, ...] | None
    cutout: int | None
    erasing: float | None
    mixup: float | None
    cutmix: float | None
    drop_last: bool | None
    select: Literal["best", "last"] | None
    sync_bn: bool | None
    early_stopping: int | None
    swa_epochs: int | None
    sam_rho: float | None
    clip_norm: float | None
    accumulate: int | None
    precision: Precision | None
    compile: bool | None
    class_weights: bool | None
    balanced: bool | None
    on_nan: OnNan | None
    layer_decay: float | None


def extras(recipe: Recipe) -> list[str]:
    """What a recipe does beyond plain SGD, as a person reads it: "SAM 0.05", "gradient clipped at 1"…"""
    said = {
        "momentum anew at milestones": recipe.forget_momentum and recipe.schedule == "steps",
        f"average of the weights {recipe.ema_decay:g}": recipe.ema_decay,
        f"last {recipe.swa_epochs} epochs averaged": recipe.swa_epochs,
        f"SAM {recipe.sam_rho:g}": recipe.sam_rho,
        f"gradient clipped at {recipe.clip_norm:g}": recipe.clip_norm,
        f"batches in {recipe.accumulate} parts": recipe.accumulate > 1,
        recipe.precision: recipe.precision != "fp32",
        "compiled": recipe.compile,
        "classes weighed": recipe.class_weights,
        "classes balanced": recipe.balanced,
        f"learning rates falling by {recipe.layer_decay:g} from part to part": recipe.layer_decay < 1,
        "back to the last checkpoint where the loss explodes": recipe.on_nan == "rollback",
        f"ends after {recipe.early_stopping} epochs without a better score": recipe.early_stopping,
    }
    return [text for text, there in said.items() if there]
