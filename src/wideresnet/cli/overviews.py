"""`wrn runs`, `wrn models` and `wrn info`."""

from pathlib import Path

from wideresnet.cli.console import percent, print_json, print_table, say
from wideresnet.errors import UsageError, nearest


def runs(folder: Path = Path("runs"), /, *, json: bool = False) -> None:
    """The runs of a folder side by side: data, network, recipe, figures.

    Parameters
    ----------
    folder
        Where the run folders are.
    json
        Print JSON instead of a table.
    """
    from wideresnet import jobs

    rows = jobs.list_runs(folder)
    if json:
        print_json(rows)
        return
    headings = ("run", "data", "arch", "size", "recipe", "epochs", "best val", "held out", "accuracy")
    table = []
    for row in rows:
        held_out = "–" if row.get("split") is None else row["split"]
        table.append(
            [
                *(str(row.get(key, "–")) for key in ("run", "data", "arch", "size", "recipe", "epochs")),
                f"AP {percent(row['val_ap'])}" if "val_ap" in row else percent(row.get("val_accuracy")),
                held_out,
                f"AP {percent(row['ap'])}" if "ap" in row else percent(row.get("accuracy")),
            ]
        )
    print_table("", dict.fromkeys(headings, "left") | {"accuracy": "right", "best val": "right"}, table)


def models(*, form: str = "", num_classes: int = 10, dialects: bool = False, json: bool = False) -> None:
    """Every architecture that the papers name: parameters, multiply-accumulates for one 32×32 picture.

    Parameters
    ----------
    form
        The tutorial's network if not given; paper for the original's (bare stem, shortcut after the activation), or
        any dialect's.
    num_classes
        Classes of the head that is counted.
    dialects
        Instead, every published variant: its code, what sets it apart, how it normalises.
    json
        Print JSON instead of a table.
    """
    from wideresnet import jobs
    from wideresnet.dialects import FORMS

    if dialects:
        _dialects(json=json)
        return
    if form not in FORMS:
        raise UsageError(f"--form {form}{nearest(form, [f for f in FORMS if f])}")
    rows = jobs.list_models(form, num_classes)
    if json:
        print_json(rows)
        return
    columns = {"arch": "left", "name": "left", "parameters": "right", "MACs at 32×32": "right", "used by": "left"}
    print_table(
        "",
        columns,
        [[r["arch"], r["title"], f"{r['parameters']:,}", f"{r['macs'] / 1e6:,.1f} M", r["used_by"]] for r in rows],
    )
    say(
        "wide_resnet50_2 and wide_resnet101_2 of torchvision and timm are another family (bottleneck, ImageNet); "
        "to train them: wrn train DATA --arch torchvision:wide_resnet50_2 --pretrained, or timm:NAME"
    )


def _dialects(*, json: bool) -> None:
    from wideresnet import jobs

    rows = jobs.list_dialects()
    if json:
        print_json(rows)
        return
    columns = dict.fromkeys(("dialect", "source", "licence", "options", "input", "quirks"), "left")
    print_table("", columns, [[_line(row[column]) for column in columns] for row in rows])


def _line(value: object) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{key} {inner}" if key else str(inner) for key, inner in value.items())
    return str(value)


def info(model: Path | None = None, /, *, json: bool = False, download: bool = False) -> None:
    """What a model file is; without one, what this machine offers.

    Parameters
    ----------
    model
        A run folder, a model file, or hf:OWNER/NAME of Hugging Face.
    json
        Print JSON instead of a table.
    download
        Fetch MODEL that is hf:OWNER/NAME.
    """
    from wideresnet import jobs

    facts = jobs.describe_machine() if model is None else jobs.describe_model(model, download=download)
    if json:
        print_json(facts)
        return
    print_table("", {"what": "left", "value": "left"}, [[key, _short(value)] for key, value in facts.items()])


def _short(value: object) -> str:
    if isinstance(value, dict):
        shown = {key: inner for key, inner in value.items() if not isinstance(inner, dict) and not _is_long(inner)}
        return ", ".join(f"{key} {_short(inner)}" for key, inner in shown.items())
    if isinstance(value, list):
        between = " " if not _is_long(value) else ", "
        return between.join(map(_short, value)) if value else "–"
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _is_long(value: object) -> bool:
    """Mean and std, a number a channel, are shown; the list of all classes is not."""
    return isinstance(value, list) and (len(value) > 3 or not all(isinstance(each, float) for each in value))
