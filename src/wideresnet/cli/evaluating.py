"""`wrn evaluate`."""

import dataclasses
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from wideresnet.cli.console import percent, print_json, print_table, say, watching
from wideresnet.cli.trainings import AS_FOUND, ReadingOptions, count_or_all
from wideresnet.errors import UsageError, printable

if TYPE_CHECKING:
    from wideresnet.corruptions import CorruptionFigures
    from wideresnet.evaluation import Evaluation, OodFigures

_GROUPS = 20  # shown in a table


def evaluate(
    model: Path,
    data: str,
    /,
    *,
    split: str | None = None,
    against: Path | None = None,
    abstain: float | None = None,
    map: tuple[str, ...] = (),  # noqa: A002 - the option's own name
    tta: Literal["none", "flip"] = "none",
    ood: str | None = None,
    corruptions: bool = False,
    corruption_pictures: str | None = None,
    report: Path | None = None,
    cache: Literal["auto", "memory", "disk", "off"] = "auto",
    json: bool = False,
    device: str = "auto",
    engine: Literal["auto", "kernels", "torch"] = "auto",
    max_bad: str = "0",
    reading: ReadingOptions = AS_FOUND,
) -> None:
    """Judge MODEL on labelled DATA: accuracy with its interval, per class, calibration, confusions; a report.

    Parameters
    ----------
    model
        A run folder, a model file, or hf:OWNER/NAME of Hugging Face (with --download).
    data
        As in `wrn train`. Its test part is taken, else val, else all of it; on the data of training, the part held out.
    split
        One of the parts that the data has: train, val, test; all where it has none.
    against
        Another model, judged on the same pictures: which is better, whether that may be chance (McNemar), and on which
        pictures they differ.
    abstain
        The share of wrong answers you can put up with, as 0.01: how many pictures it answers where it answers only if
        it is as sure as that took on the val part of its training.
    map
        Renames a class of DATA, or of --against, to what MODEL calls it: --map OLD=NEW.
    tta
        Test-time augmentation: flip averages the probabilities of each picture and its mirror image.
    ood
        Other data, or a folder of pictures, of none of MODEL's classes: how well they are told from DATA's.
    corruptions
        Judge it also on pictures in noise, blurred, in snow or fog, badly compressed…: 14 corruptions, 5 severities.
    corruption_pictures
        How many pictures --corruptions takes, of every class its share, or all; 1000 if not given.
    report
        Where the HTML report goes; in a run folder, evaluation.html if not given.
    cache
        Where decoded pictures are kept, as in `wrn train`. No figure changes with it.
    json
        Print the figures as JSON instead of a table.
    device
        auto, cpu, cuda or mps.
    engine
        What computes: kernels (our own, on a CPU, where they were built and know the network) or torch; auto takes the
        first of these that can.
    max_bad
        How many unreadable pictures may be left out, or all.
    """
    from wideresnet import jobs

    at_most = _corruption_pictures(corruption_pictures, corruptions)
    if report is None and model.is_dir() and os.access(model, os.W_OK):
        report = model / "evaluation.html"
    with watching() as watch:
        evaluation = jobs.evaluate(
            model,
            data,
            split=split,
            against=against,
            abstain=abstain,
            class_map=renames(map),
            tta=tta,
            ood=ood,
            corruptions=corruptions,
            **at_most,
            cache=cache,
            device=device,
            engine=engine,
            max_bad=count_or_all(max_bad),
            report_file=report,
            **dataclasses.asdict(reading),
            command=shlex.join(["wrn", *sys.argv[1:]]),
            watch=watch,
        )
    if json:
        print_json(evaluation.figures())
    else:
        _print(evaluation)
    if report is not None:
        say(f"report: {report}")


def renames(given: Sequence[str]) -> dict[str, str]:
    """OLD=NEW, each. Raises UsageError."""
    pairs = dict[str, str]()
    for one in given:
        old, equals, new = one.partition("=")
        if not (old and equals and new) or pairs.get(old, new) != new:
            raise UsageError(f"--map {one}: expected OLD=NEW, each old name once")
        pairs[old] = new
    return pairs


def _print(e: "Evaluation") -> None:
    low, high = e.interval
    print(f"{e.data}, {e.split}: {len(e.labels)} pictures, {e.engine}")
    for sentence in e.summary:
        print(f"  {printable(sentence)}")
    print(f"accuracy   {percent(e.accuracy)}   95 % interval {percent(low)} to {percent(high)}")
    if e.top5 is not None:
        print(f"top-5      {percent(e.top5)}")
    between = (
        "" if e.macro_f1_interval is None else "   95 % interval " + " to ".join(map(percent, e.macro_f1_interval))
    )
    print(f"macro F1   {percent(e.macro_f1)}{between}   weighted {percent(e.averages['weighted'].f1)}")
    for name, one in (("confidence", e), ("raw", e.raw)):
        if one is not None:
            errors = f"ECE {percent(one.ece)} (15 bins), {percent(one.ece_equal_mass)} (of equally many pictures)"
            print(f"{name:<10} {errors}   Brier {one.brier:.4f}   loss {one.loss:.4f}")
    if (two := e.two_classes) is not None:
        positive = printable(e.class_names[two.positive])
        print(f"ROC AUC    {two.roc_auc:.4f}   average precision of {positive} {two.average_precision:.4f}")
    _print_asked_for(e)
    columns = {"class": "left", "pictures": "right", "precision": "right", "recall": "right", "F1": "right"}
    rows = [
        [name, str(score.count), percent(score.precision), percent(score.recall), percent(score.f1)]
        for name, score in zip(e.class_names, e.per_class, strict=True)
    ]
    print_table("", columns, rows)
    if len(e.class_names) <= 20:
        headings = {"true \\ predicted": "left"} | {f"{i} {name}"[:14]: "right" for i, name in enumerate(e.class_names)}
        confusion = [[f"{i} {name}", *map(str, e.confusion[i])] for i, name in enumerate(e.class_names)]
        print_table("Confusion matrix", headings, confusion)
    if e.ood is not None:
        _print_ood(e.ood)
    if e.corruptions is not None:
        _print_corruptions(e.corruptions)


def _print_asked_for(e: "Evaluation") -> None:
    if (part := e.abstaining) is not None:
        wrong = ""
        if part.interval is not None:
            low, high = part.interval
            share = percent(part.wrong / part.answered)
            wrong = f", of which {part.wrong:,} wrong: {share}, 95 % interval {percent(low)} to {percent(high)}"
        print(
            f"abstaining answers {part.answered:,} of {part.num_images:,} pictures ({percent(part.coverage)}), from "
            f"{percent(part.threshold)} sure on{wrong}; on val this took for at most {percent(part.risk)}"
        )
    if e.against is not None and (both := e.comparison) is not None:
        print(f"against    {printable(both.other)}: {percent(e.against.accuracy)}")
        print(f"  {printable(both.sentence)}")
        print(
            f"  right alone: {len(both.only_this):,} and {len(both.only_other):,}; both {both.both_right:,}, "
            f"neither {both.both_wrong:,}"
        )
    if groups := e.per_group:
        headings = {"group": "left", "pictures": "right", "accuracy": "right", "95 % interval": "right", "": "left"}
        rows = [
            [
                row.group,
                str(row.count),
                percent(row.accuracy),
                " to ".join(map(percent, row.interval)),
                "weak" if row.weak else "",
            ]
            for row in groups[:_GROUPS]
        ]
        print_table("Groups, the least accurate first", headings, rows)
        if len(groups) > _GROUPS:
            print(f"and {len(groups) - _GROUPS:,} more; --json has all")


def _print_ood(o: "OodFigures") -> None:
    from wideresnet.evaluation.unknown import SCORES

    print(f"unknown    {o.data}: {o.num_images:,} pictures   AUROC {percent(o.auroc)}   FPR@95 {percent(o.fpr95)}")
    print(f"  {o.sentence}")
    print(f"  The score is {SCORES[o.score]}.")


def _print_corruptions(c: "CorruptionFigures") -> None:
    low, high = c.mean_error_interval
    columns = {"corruption": "left", **{f"severity {i}": "right" for i in range(1, 6)}, "mean": "right"}
    rows = [
        [title, *(percent(share) for share in accuracy), percent(float(accuracy.mean()))]
        for title, accuracy in zip(c.titles, c.accuracy, strict=True)
    ]
    print_table(f"Accuracy on {c.num_images:,} of {c.of:,} pictures, corrupted", columns, rows)
    print(f"mean corruption error   {percent(c.mean_error)}   95 % interval {percent(low)} to {percent(high)}")
    print(f"clean, the same         {percent(1 - c.clean_accuracy)}")
    print(f"{c.sentence} Not among them: {', '.join(c.left_out)}.")


def _corruption_pictures(text: str | None, corruptions: bool) -> dict[str, Any]:
    """What the job is told: nothing, where nothing was given."""
    if text is None:
        return {}
    if not corruptions:
        raise UsageError(f"--corruption-pictures {text}: says how many pictures --corruptions takes; give that too")
    if text != "all" and not (text.isdecimal() and len(text) < 20):
        raise UsageError(f"--corruption-pictures {text}: expected a whole number from 1, or all")
    return {"corruption_pictures": None if text == "all" else int(text)}
