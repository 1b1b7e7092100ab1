"""`wrn import` and `wrn convert`: other projects' checkpoints, proven against logits that their own code computed."""

import argparse
import collections
import dataclasses
import json
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dialect_tensors
import numpy as np
import pytest
import torch
from conftest import shared
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import wideresnet as wrn
from wideresnet import checkpoint, dialects, jobs, networks, runtime
from wideresnet.checkpoint import load_model
from wideresnet.cli import run
from wideresnet.dialects import DIALECTS, Dialect, find_dialect
from wideresnet.errors import ModelFileError, UsageError

QUIET = runtime.Watch()
SHARED_FIXTURES = (
    "davda54-sam",
    "ddu-plain",
    "deepmind-swish",
    "hysts",
    "jem",
    "kekmodel-fixmatch",
    "meliketoy",
    "pytorchcv",
    "robustbench",
    "robustbench-augmix",
    "robustbench-dai2021pssilu",
    "robustbench-hendrycks2019",
    "szagoruyko",
    "torchssl",
    "trades",
    "uncertainty-baselines",
    "xternalz",
)


def lively(model: nn.Module, seed: int = 0) -> nn.Module:
    """Values that a wrong option shows in: BN's statistics and scales far from 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if key.endswith("num_batches_tracked"):
                value.fill_(7)
            elif value.dim() == 1:
                low, high = (0.5, 1.5) if key.endswith(("weight", "running_var")) else (-0.3, 0.3)
                value.copy_(torch.rand(value.shape, generator=generator) * (high - low) + low)
    return model.eval()


def of(dialect: Dialect | str, num_classes: int | None = None, **changes: Any) -> dict[str, Tensor]:
    """A state dict as this dialect's code would save it, of a WRN-10-2; of 10 classes, if it had such data."""
    dialect = find_dialect(dialect) if isinstance(dialect, str) else dialect
    num_classes = num_classes or (100 if list(dialect.inputs) == ["cifar100"] else 10)
    options: dict[str, Any] = {"depth": 10, "widen_factor": 2, **dialect.options, **changes}
    state = lively(wrn.WideResNetClassifier(num_classes, **options)).state_dict()
    return dialects.to_theirs(state, dialect.keys.theirs(state), hwio=dialect.keys.hwio)


def saved(folder: Path, tensors: Mapping[str, Tensor], name: str = "checkpoint.safetensors") -> Path:
    path = folder / name
    save_file({key: value.contiguous() for key, value in tensors.items()}, path)
    return path


def imported(path: Path, out: Path, **options: Any) -> jobs.Imported:
    return wrn.import_checkpoint(path, out=out, watch=QUIET, **options)


@pytest.mark.parametrize("name", SHARED_FIXTURES)
def test_a_sources_own_logits_come_out_of_what_was_imported_and_its_tensors_go_back_unchanged(
    name: str, tmp_path: Path
) -> None:
    fixture = load_file(shared(f"fixtures/dialects/{name}.safetensors"))
    tensors = {key: value for key, value in fixture.items() if not key.startswith("__")}
    done = imported(saved(tmp_path, tensors), tmp_path / "ours.safetensors", dialect=name)
    file = load_model(done.path)
    x = fixture["__input__"]
    if find_dialect(name).inside:  # elsewhere the fixture's input is normalised already
        x = file.card.preprocess.normalise(x)
    with torch.no_grad():
        logits = file.model(x)
    error = float((logits - fixture["__logits__"]).abs().max() / fixture["__logits__"].abs().max())
    print(f"{name}: {error:.1e}")
    assert error < 1e-5, error
    wrn.convert(done.path, name, tmp_path / "theirs.safetensors")
    back = load_file(tmp_path / "theirs.safetensors")
    assert back.keys() == tensors.keys()
    assert {key: value.dtype for key, value in back.items()} == {key: value.dtype for key, value in tensors.items()}
    assert all(torch.equal(back[key], value) for key, value in tensors.items())


# As the sources write them (their files, at the commits that the fixtures name), typed here once more.
TWENTIETHS = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
C10, C100 = ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)), ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))
BYTES = ((125.3 / 255, 123.0 / 255, 113.9 / 255), (63.0 / 255, 62.1 / 255, 66.7 / 255))
HALF, NONE = ((0.5,) * 3, (0.5,) * 3), ((0.0,) * 3, (1.0,) * 3)
NORMALISED: dict[tuple[str, int], Any] = {
    ("szagoruyko", 10): BYTES,
    ("xternalz", 100): BYTES,
    ("outlier-exposure", 10): BYTES,
    ("augmix", 10): HALF,
    ("repdistiller", 100): C100,
    ("trades", 10): NONE,
    ("robust-overfitting", 10): C10,
    ("awp", 10): C10,
    ("bag-of-tricks", 10): C10,
    ("robustbench", 10): NONE,
    ("robustbench-hendrycks2019", 10): HALF,
    ("rst-normalize", 10): TWENTIETHS,
    ("yu1ut-mixmatch", 10): C10,
    ("kekmodel-fixmatch", 100): C100,
    ("torchssl", 10): BYTES,
    ("torchssl", 100): ((129.3 / 255, 124.1 / 255, 112.4 / 255), (68.2 / 255, 65.4 / 255, 70.4 / 255)),
    ("usb", 10): ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ("meliketoy", 10): TWENTIETHS,
    ("meliketoy", 100): C100,
    ("fast-autoaugment", 100): TWENTIETHS,
    ("ddu-plain", 10): TWENTIETHS,
    ("deepmind-swish", 100): ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    ("pytorchcv", 10): TWENTIETHS,
    ("hysts", 10): ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    ("jem", 10): HALF,
}
MOMENTA = {  # of the blocks' BN and of the last, as torch counts it
    "xternalz": (0.1, 0.1),
    "kekmodel-fixmatch": (0.001, 0.001),
    "torchssl": (0.001, 0.001),
    "usb": (0.001, 0.001),
    "meliketoy": (0.1, 0.9),
    "swa": (0.1, 0.9),
    "fast-autoaugment": (0.9, 0.9),
    "suncet": (0.1, 0.99),
    "ddu-plain": (0.01, 0.01),
    "deepmind-swish": (0.1, 0.1),
    "dm-improves-at": (0.01, 0.01),
    "keras-titu1994": (0.9, 0.9),
}


@pytest.mark.parametrize(("name", "num_classes"), NORMALISED)
def test_the_documented_normalisation_travels_with_the_imported_model(
    name: str, num_classes: int, tmp_path: Path
) -> None:
    tensors = of(name, num_classes)
    done = imported(saved(tmp_path, tensors), tmp_path / "ours.safetensors", dialect=name)
    mean, std = NORMALISED[name, num_classes]
    assert done.preprocess.mean == pytest.approx(mean, abs=1e-9)
    assert done.preprocess.std == pytest.approx(std, abs=1e-9)
    assert (done.preprocess.per_image, done.preprocess.border, done.preprocess.size) == (False, 0, 32)


@pytest.mark.parametrize("name", ["advertorch", "robustbench-ding2020mma"])
def test_images_that_a_source_standardises_one_by_one_are_so_here(name: str, tmp_path: Path) -> None:
    assert imported(saved(tmp_path, of(name)), tmp_path / "o.safetensors", dialect=name).preprocess.per_image


@pytest.mark.parametrize("name", MOMENTA)
def test_what_is_trained_further_has_the_momentum_of_its_source(name: str) -> None:
    backbone = wrn.create_model(f"wrn_10_1.{name}").backbone
    block = backbone.stage2[0]
    assert isinstance(block, wrn.WideResidualBlock)
    norms = (block.bn1, block.bn2, backbone.bn)
    blocks, last = MOMENTA[name]
    assert [norm.momentum for norm in norms if isinstance(norm, nn.BatchNorm2d)] == [blocks, blocks, last]


OWN = sorted((Path(__file__).parent / "dialects").glob("*.json"))


def of_file(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a source's code computed, and the tensors that it had for it, made again from their names."""
    facts = json.loads(path.read_text())
    keys = facts["keys"].items()
    return facts, {key: dialect_tensors.tensor(key, kind[:-1], getattr(torch, kind[-1])) for key, kind in keys}


@pytest.mark.parametrize("path", [p for p in OWN if "refused" not in p.read_text()], ids=lambda path: path.stem)
def test_each_dialect_gives_the_logits_that_its_own_code_computed(path: Path, tmp_path: Path) -> None:
    facts, tensors = of_file(path)
    row = find_dialect(facts["dialect"])
    inside = (row.keys.mean, row.keys.std)
    for field in {
        "logits",
        "logits_by_code",
    } & facts.keys():  # the second: mean and std from the code, none in the file
        there = {k: v for k, v in tensors.items() if field == "logits" or k not in inside}
        options = {"dataset": facts["data_set"] or None} if row.inputs else {"mean": (0.5,), "std": (0.25,)}
        out = tmp_path / f"{field}.safetensors"
        imported(saved(tmp_path, there, f"{field}-theirs.safetensors"), out, dialect=row.name, **options)
        file = load_model(out)
        x = dialect_tensors.image(facts["in_channels"], facts["side"])
        x = file.card.preprocess.normalise(x) if row.inside else x
        expected = torch.tensor(facts[field], dtype=torch.float64)
        with torch.no_grad():
            logits = file.model(x).double()
        error = float((logits - expected).abs().max() / expected.abs().max())
        print(f"{path.stem}: {error:.1e}")
        assert error < 1e-5, f"{field}: {error}"  # float32; in float64 they agree to 4e-8, the worst, and 1e-12, most
        assert [file.card.architecture[name] for name in ("depth", "widen_factor")] == [
            facts["depth"],
            facts["widen_factor"],
        ]


def test_every_dialect_whose_code_is_public_has_its_logits_here() -> None:
    found = {json.loads(path.read_text())["dialect"] for path in OWN}
    assert {row.name for row in DIALECTS} - found == {
        "usb-biased",  # its code was never published
        "ddu-sn-1",  # ddu-sn with another constant
        "ddu-sn-mod-1",
        "dm-improves-at-relu",  # xternalz under a prefix
    }


@pytest.mark.parametrize("path", [p for p in OWN if "refused" in p.read_text()], ids=lambda path: path.stem)
def test_networks_that_no_option_makes_are_refused_by_name(path: Path, tmp_path: Path) -> None:
    _, tensors = of_file(path)
    with pytest.raises(ModelFileError, match="which is not read: "):
        imported(saved(tmp_path, tensors), tmp_path / "ours.safetensors")


def test_a_post_activation_network_under_meliketoys_names_is_refused_by_name(tmp_path: Path) -> None:
    fixture = load_file(shared("fixtures/dialects/torch-uncertainty.safetensors"))
    path = saved(tmp_path, {key: value for key, value in fixture.items() if not key.startswith("__")})
    with pytest.raises(ModelFileError, match="of torch-uncertainty, which is not read: it activates after"):
        imported(path, tmp_path / "ours.safetensors")
    with pytest.raises(ModelFileError, match="torch-uncertainty"):
        imported(path, tmp_path / "ours.safetensors", dialect="meliketoy")


@pytest.mark.parametrize("dialect", [row for row in DIALECTS if not row.keys.spectral], ids=lambda row: row.name)
def test_every_dialect_goes_there_and_back(dialect: Dialect, tmp_path: Path) -> None:
    tensors = of(dialect)
    options = {} if dialect.inputs else {"mean": (0.5,), "std": (0.25,)}
    done = imported(saved(tmp_path, tensors), tmp_path / "ours.safetensors", dialect=dialect.name, **options)
    wrn.convert(done.path, dialect.name, tmp_path / "theirs.safetensors")
    back = load_file(tmp_path / "theirs.safetensors")
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[key], value) for key, value in tensors.items())


def _sharing_keys() -> list[tuple[Dialect, Dialect]]:
    """Pairs of dialects that name the same keys and compute differently."""
    found = []
    for row in DIALECTS:
        if not row.keys.spectral:
            fits, _ = dialects.fits(of(row))
            mine = next(fit for fit in fits if fit.dialect is row)
            found += [(row, fit.dialect) for fit in fits if fit.meaning != mine.meaning]
    return found


def test_where_keys_fit_dialects_that_compute_differently_each_pair_is_asked_about_and_never_guessed(
    tmp_path: Path,
) -> None:
    pairs = _sharing_keys()
    by_name = {(mine.name, other.name) for mine, other in pairs}
    # Those of the published facts, section 4: the same keys, other networks or other inputs.
    assert by_name >= {
        ("xternalz", "kekmodel-fixmatch"),
        ("xternalz", "robustbench"),
        ("robustbench", "robustbench-hendrycks2019"),
        ("robustbench", "robustbench-ding2020mma"),
        ("trades", "awp"),
        ("deepmind-relu", "deepmind-swish"),
        ("deepmind-swish", "deepmind-relu"),
        ("kekmodel-fixmatch", "outlier-exposure"),
        ("uncertainty-baselines", "keras-titu1994"),
    }
    rows = {row.name: row for row, _ in pairs}
    for name, row in rows.items():
        path = saved(tmp_path, of(row), f"{name}.safetensors")
        with pytest.raises(UsageError, match="do not tell apart") as caught:
            imported(path, tmp_path / f"{name}-ours.safetensors")
        told = str(caught.value)
        listed = {word.strip(",") for line in told.splitlines()[1:-1] for word in line.split("  ")[1].split()}
        missing = [other.name for mine, other in pairs if mine is row and other.name not in listed]
        assert not missing, f"{name}: the message does not name {missing}"
        assert not (tmp_path / f"{name}-ours.safetensors").exists()


def test_someone_at_a_terminal_is_asked_and_their_answer_is_taken(tmp_path: Path) -> None:
    asked = list[list[str]]()

    def choose(candidates: Any) -> Any:
        asked.append(jobs.described(candidates))
        return next(each for each in candidates if "deepmind-swish" in each.names)

    path = saved(tmp_path, of("deepmind-relu"))
    assert imported(path, tmp_path / "ours.safetensors", choose=choose).dialect == "deepmind-swish"
    assert [line.split(",")[0].split() for line in asked[0]] == [
        ["deepmind-relu", "activation", "relu"],
        ["deepmind-swish", "activation", "silu"],
    ]


def test_dialects_that_differ_in_training_alone_are_not_asked_about(tmp_path: Path) -> None:
    done = imported(saved(tmp_path, of("swa")), tmp_path / "ours.safetensors")
    assert done.candidates[0].names == ("meliketoy", "swa", "fast-autoaugment")


def test_mean_and_std_that_lie_in_the_file_are_read_from_it(tmp_path: Path) -> None:
    tensors = of("robustbench-rice2020", num_classes=100)
    tensors["mu"] = torch.tensor([0.5071, 0.4867, 0.4408]).view(1, 3, 1, 1)
    tensors["sigma"] = torch.tensor([0.2675, 0.2565, 0.2761]).view(1, 3, 1, 1)
    done = imported(saved(tmp_path, tensors), tmp_path / "ours.safetensors")
    assert done.preprocess.mean == (0.5071, 0.4867, 0.4408)
    assert done.preprocess.std == (0.2675, 0.2565, 0.2761)
    assert done.dialect == "robustbench-rice2020"


def test_shape_is_read_off_the_tensors(tmp_path: Path) -> None:
    tensors = of("szagoruyko", num_classes=7, depth=22, widen_factor=3, in_channels=1)
    done = imported(saved(tmp_path, tensors), tmp_path / "ours.safetensors")
    shape = load_model(done.path).card.architecture
    assert [shape[name] for name in ("num_classes", "depth", "widen_factor", "in_channels")] == [7, 22, 3, 1]


def test_stages_of_any_width_and_number_of_blocks_are_read_off_the_tensors(tmp_path: Path) -> None:
    uneven: dict[str, Any] = {"depth": 16, "num_blocks": (3, 1, 2), "widths": (40, 72, 56)}
    done = imported(saved(tmp_path, of("robustbench-huang2021", **uneven)), tmp_path / "ours.safetensors")
    shape = networks.architecture_of(load_model(done.path).model)
    assert {name: shape[name] for name in uneven} == uneven


def test_spectral_norms_become_the_plain_weights_that_their_network_computes_with(tmp_path: Path) -> None:
    tensors = dict[str, Tensor]()
    generator = torch.Generator().manual_seed(1)
    side = {"conv1.weight": 32, "layer1": 32, "layer2": 16, "layer3": 8}
    for key, value in of("ddu-plain").items():
        if value.dim() != 4:
            tensors[key] = value
            continue
        out_ch, in_ch, kernel, _ = value.shape
        place = side.get(key, side.get(key.split(".")[0], 0))
        before = place * (2 if key in ("layer2.0.conv1.weight", "layer3.0.conv1.weight") else 1)
        sizes = (out_ch, in_ch) if kernel == 1 else (out_ch * place**2, in_ch * before**2)
        u, v = (nn.functional.normalize(torch.randn(size, generator=generator), dim=0) for size in sizes)
        tensors |= {f"{key}_orig": value * 40, f"{key}_u": u, f"{key}_v": v, f"{key}_sigma": torch.ones(1)}
    path = saved(tmp_path, tensors)
    with pytest.raises(UsageError, match=r"ddu-sn .*spectral norms of at most 3[\s\S]*ddu-sn-1 .*at most 1"):
        imported(path, tmp_path / "ours.safetensors")
    done = imported(path, tmp_path / "ours.safetensors", dialect="ddu-sn")
    weight, u, v = (tensors[f"layer2.0.shortcut.weight_{part}"] for part in ("orig", "u", "v"))
    sigma = torch.dot(u, weight.flatten(1) @ v)
    folded = load_model(done.path).model.state_dict()["backbone.stage2.0.proj.weight"]
    assert torch.allclose(folded, weight / max(1.0, float(sigma) / 3), rtol=1e-5)
    wrn.convert(done.path, "ddu-sn", tmp_path / "theirs.safetensors")
    back = load_file(tmp_path / "theirs.safetensors")
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[key], value) for key, value in tensors.items())


class _TheirNetwork(nn.Module):
    """A class of the author's own, which a pickle of the whole module wants."""


def wrapped(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """State dicts as training scripts save them."""
    ddp = {f"module.{key}": value for key, value in tensors.items()}
    zeros = {key: torch.zeros_like(value) for key, value in tensors.items()}
    student = {f"student.{key}": value for key, value in tensors.items()}
    return {
        "bare": dict(tensors),
        "ordered, with metadata": collections.OrderedDict(tensors),
        "ddp": {"epoch": 3, "state_dict": ddp, "optimizer": {"state": {}, "param_groups": []}},
        "ddp twice": {"state_dict": {f"module.{key}": value for key, value in ddp.items()}},
        "net": {"net": dict(tensors), "acc": 93.1},
        "a model that is a text beside": {"model": "wrn", "state_dict": dict(tensors), "best_acc": np.float64(95.1)},
        "no average yet": {"state_dict": dict(tensors), "ema_state_dict": None},
        "an average beside": {"state_dict": dict(tensors), "ema_state_dict": zeros},
        "namespace": {"model": ddp, "args": argparse.Namespace(lr=0.1), "log": collections.defaultdict(list)},
        "a figure that is a tensor": {"model": dict(tensors), "accuracy": torch.tensor([75.6])},
        "compiled": {f"_orig_mod.{key}": value for key, value in tensors.items()},
        "model in front": {"state_dict": {f"module.model.{key}": value for key, value in tensors.items()}},
        "encoder": {"encoder": ddp, "opt": {}},
        "student": {"params": student | {f"teacher.{key}": value for key, value in zeros.items()}},
    }


@pytest.mark.parametrize("how", list(wrapped({})))
def test_what_training_scripts_put_around_a_state_dict_is_taken_off(how: str, tmp_path: Path) -> None:
    tensors = of("pytorchcv")
    path = tmp_path / "model_best.pth.tar"
    torch.save(wrapped(tensors)[how], path)
    done = imported(path, tmp_path / "ours.safetensors", trust_pickle=True)
    assert torch.equal(load_model(done.path).model.state_dict()["fc.weight"], tensors["output.weight"])
    wrn.convert(done.path, "pytorchcv", tmp_path / "theirs.pth")
    back = torch.load(tmp_path / "theirs.pth", weights_only=True)
    prefix = {"ddp": "module.", "ddp twice": "module.module.", "namespace": "module.", "compiled": "_orig_mod."}
    prefix |= {"model in front": "module.model.", "encoder": "module.", "student": "student."}
    assert back.keys() == {prefix.get(how, "") + key for key in tensors}
    assert all(torch.equal(back[prefix.get(how, "") + key], value) for key, value in tensors.items())


def test_averaged_weights_are_told_of_and_taken_when_asked_for(tmp_path: Path) -> None:
    path, plain, averaged = tmp_path / "best.pth", of("torchssl"), of("torchssl")
    averaged["fc.weight"] = averaged["fc.weight"] + 1
    torch.save({"model": plain, "ema_model": {f"module.{k}": v for k, v in averaged.items()}}, path)
    raw = imported(path, tmp_path / "raw.safetensors", trust_pickle=True)
    assert any("ema_model" in note and "--ema" in note for note in raw.notes)
    assert torch.equal(load_model(raw.path).model.state_dict()["fc.weight"], plain["fc.weight"])
    ema = imported(path, tmp_path / "ema.safetensors", trust_pickle=True, ema=True)
    assert torch.equal(load_model(ema.path).model.state_dict()["fc.weight"], averaged["fc.weight"])
    assert load_model(ema.path).card.weights == "ema"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32_and_written_back_as_it_was(dtype: torch.dtype, tmp_path: Path) -> None:
    tensors = {key: value.to(dtype) if value.is_floating_point() else value for key, value in of("hysts").items()}
    done = imported(saved(tmp_path, tensors), tmp_path / "ours.safetensors")
    assert {value.dtype for value in load_model(done.path).model.parameters()} == {torch.float32}
    wrn.convert(done.path, "hysts", tmp_path / "theirs.safetensors")
    back = load_file(tmp_path / "theirs.safetensors")
    assert all(back[key].dtype == value.dtype and torch.equal(back[key], value) for key, value in tensors.items())


@pytest.mark.parametrize("suffix", [".pt", ".npz", ".pkl", ".legacy.pth"])
def test_every_container_gives_the_same_network(suffix: str, tmp_path: Path) -> None:
    tensors, path = of("hysts"), tmp_path / f"theirs{suffix}"
    if suffix == ".npz":
        np.savez(path, **{key: value.numpy() for key, value in tensors.items()})  # type: ignore[arg-type]
    elif suffix == ".pkl":
        path.write_bytes(pickle.dumps({"params": {key: value.numpy() for key, value in tensors.items()}, "epoch": 3}))
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=suffix == ".pt")
    done = imported(path, tmp_path / "ours.safetensors", trust_pickle=True)
    assert torch.equal(load_model(done.path).model.state_dict()["fc.weight"], tensors["fc.weight"])


@pytest.mark.parametrize("layout", ["keras 2", "a whole model", "keras 3", "a later session"])
def test_keras_files_are_read_layer_by_layer(layout: str, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    tensors, path = of("uncertainty-baselines"), tmp_path / "theirs.h5"
    with h5py.File(path, "w") as file:
        for key, value in tensors.items():
            layer, leaf = key.split("/")
            if layout == "keras 3":
                group = file.require_group(f"layers/{layer}/vars")
                group[str(len(group))] = value.numpy()
                continue
            if layout == "a later session":
                kind, _, number = layer.rpartition("_") if layer[-1].isdecimal() else (layer, "", "0")
                layer = f"{kind}_{int(number) + 30}"
            root = "model_weights/" if layout == "a whole model" else ""
            file[f"{root}{layer}/{layer}/{leaf}:0"] = value.numpy()
    done = imported(path, tmp_path / "ours.safetensors", dialect="uncertainty-baselines")
    wrn.convert(done.path, "uncertainty-baselines", tmp_path / "back.npz")
    back = np.load(tmp_path / "back.npz")
    assert set(back) == set(tensors)
    assert all(np.array_equal(back[key], value.numpy()) for key, value in tensors.items())


def refusals(folder: Path) -> dict[str, tuple[Path, tuple[str, ...]]]:
    """File that is no checkpoint of ours → what the message says."""
    whole = of("xternalz")
    files = dict[str, tuple[Path, tuple[str, ...]]]()

    def tensors(what: str, state: Mapping[str, Tensor], *words: str) -> None:
        files[what] = (saved(folder, state, f"{what.replace(' ', '-')}.safetensors"), words)

    def pickled(what: str, value: Any, *words: str) -> None:
        path = folder / f"{what.replace(' ', '-')}.pth"
        torch.save(value, path)
        files[what] = (path, words)

    def raw(name: str, content: bytes, *words: str) -> None:
        (folder / name).write_bytes(content)
        files[name] = (folder / name, words)

    half = {key: value for key, value in whole.items() if not key.startswith("block3")}
    tensors("half a checkpoint", half, "fits no dialect", "no three stages")
    one_less = {key: value for key, value in whole.items() if key != "block2.layer.0.bn2.running_var"}
    tensors("a missing buffer", one_less, "lacks block2.layer.0.bn2.running_var")
    tensors("an extra head", {**whole, "aux.weight": torch.ones(4, 128)}, "has the unknown aux.weight", "--set-aside")
    tensors("not finite", {**whole, "fc.bias": torch.full((10,), torch.nan)}, "fc.bias", "not finite")
    resnet = {"conv1.weight": torch.ones(64, 3, 7, 7), "layer4.0.conv3.weight": torch.ones(8, 8, 1, 1)}
    tensors("a bottleneck", {**resnet, "fc.weight": torch.ones(9, 8)}, "wide_resnet50_2", "--arch torchvision:")
    fourth = {"block4.layer.0.conv1.weight": torch.ones(8, 8, 3, 3)}
    tensors("a fourth stage", {**whole, **fourth}, "WideResNetVar", "fourth stage")
    other = {f"encoder.{n}.weight": torch.ones(8, 8) for n in range(5)}
    tensors("a transformer", other, "fits no dialect")
    pickled("an optimizer", {"state": {0: {"momentum_buffer": torch.ones(3, 3)}}, "param_groups": []}, "optimizer")
    pickled("a number", 3, "holds a int")
    pickled("a whole module", _TheirNetwork(), "wants", "_TheirNetwork", "state_dict")
    plain = of("hysts")
    tensors("integers", {**plain, "fc.weight": torch.ones(10, 128, dtype=torch.int32)}, "fc.weight", "int32")
    tensors("complex", {**plain, "fc.weight": torch.ones(10, 128, dtype=torch.complex64)}, "complex64")
    tensors("a negative variance", {**plain, "bn.running_var": -torch.ones(128)}, "bn.running_var", "below 0")
    tensors("no dimensions", {**whole, "bn1.weight": torch.tensor(1.0)}, "other shapes: bn1.weight")
    float8 = {**plain, "fc.weight": torch.ones(10, 128).to(torch.float8_e4m3fn).fill_(float("nan"))}
    tensors("float8", float8, "fc.weight", "not finite")
    pruned = {("conv.weight_orig" if k == "conv.weight" else k): v for k, v in plain.items()}
    tensors("pruned", {**pruned, "conv.weight_mask": torch.ones(16, 3, 3, 3)}, "fits no dialect")
    sn = {key: value for key, value in of("ddu-plain").items() if value.dim() != 4}
    for key, value in of("ddu-plain").items():
        if value.dim() == 4:  # as torch.nn.utils.spectral_norm has it
            u, v = torch.ones(value.shape[0]), torch.ones(value[0].numel())
            sn |= {f"{key}_orig": value, f"{key}_u": u, f"{key}_v": v}
    tensors("torch's spectral norm", sn, "fits no dialect")
    tensors("half of mu and sigma", {**of("awp"), "mu": torch.zeros(1, 3, 1, 1)}, "mu and sigma go together")
    pickled("different weights", {"state_dict": plain, "model": whole}, "state_dict, model", "different weights")
    pickled("averaged alone", {"ema": plain}, "--ema")
    pickled("sparse", {**plain, "fc.weight": plain["fc.weight"].to_sparse()}, "sparse")
    raw("stdlib.pkl", b"cos\nsystem\n(S'true'\ntR.", "os.system", "leave this file")
    np.savez(folder / "objects.npz", x=np.array([{}], dtype=object))
    files["objects.npz"] = (folder / "objects.npz", ("Python objects",))
    np.savez(folder / "texts.npz", x=np.array(["a"]))
    files["texts.npz"] = (folder / "texts.npz", ("expected numbers",))
    quantised = {f"l{n}.weight": torch.quantize_per_tensor(torch.ones(4, 4), 0.1, 0, torch.qint8) for n in range(4)}
    pickled("quantised", quantised, "quantised")
    raw("page.pth", b"<!DOCTYPE html><html>Quota exceeded</html>", "web page")
    raw("pointer.pth", b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull")
    raw("empty.pth", b"", "empty")
    raw("weights.npy", b"\x93NUMPY\x01\x00v\x00", "haiku", ".npz")
    raw("model.t7", b"\x04\x00\x00\x00\x01\x00\x00\x00\x03\x00\x00\x00", "Lua")
    raw("model-00001-of-00003.safetensors", b"{}", "sharded")
    raw("pytorch_model.bin.index.json", b"{}", "sharded")
    raw("model.ckpt-1000.index", b"\x00", "TensorFlow")
    raw("noise.pth", b"\x17\x2a" * 300, "no known format")
    raw("cut.safetensors", saved(folder, whole, "whole.safetensors").read_bytes()[:-100], "damaged or cut short")
    with zipfile.ZipFile(folder / "wrn.pth.zip", "w") as file:
        file.writestr("wrn.pth", b"x")
    files["zipped"] = (folder / "wrn.pth.zip", ("unpack",))
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), str(folder / "script.pt"))
    files["torchscript"] = (folder / "script.pt", ("TorchScript",))
    files["nothing there"] = (folder / "none.pth", ("no such file",))
    files["a folder"] = (folder, ("folder",))
    return files


def test_what_is_no_checkpoint_of_a_wide_resnet_is_told_in_one_line_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for what, (path, words) in refusals(tmp_path).items():
        code = run(["import", str(path), "--trust-pickle", "--out", str(tmp_path / "ours.safetensors")])
        said = capsys.readouterr().err
        assert code == 2, f"{what}: {code}, {said}"
        assert str(path) in said or "classes" in said, what
        assert all(word in said for word in words), f"{what}: {said}"
        assert "Traceback" not in said
        assert said.count("\n") == 1, f"{what}: {said}"
        assert not (tmp_path / "ours.safetensors").exists()


def test_no_pickle_is_opened_untrusted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(of("hysts"), tmp_path / "theirs.pth")
    assert run(["import", str(tmp_path / "theirs.pth"), "--out", str(tmp_path / "ours.safetensors")]) == 2
    assert "--trust-pickle" in capsys.readouterr().err


class _Malice:
    def __reduce__(self) -> Any:
        return (exec, ("raise SystemExit('code of a pickle was run')",))


@pytest.mark.parametrize("raw", [False, True])
def test_code_in_a_trusted_pickle_is_not_run(raw: bool, tmp_path: Path) -> None:
    path, value = tmp_path / "theirs.pkl", {"state_dict": of("hysts"), "extra": _Malice()}
    if raw:
        path.write_bytes(pickle.dumps({"state_dict": {}, "extra": _Malice()}))
    else:
        torch.save(value, path)
    with pytest.raises(ModelFileError, match=r"wants builtins.exec, code which is not run: no weights need it"):
        imported(path, tmp_path / "ours.safetensors", trust_pickle=True)


def test_what_is_set_aside_is_kept_and_written_back(tmp_path: Path) -> None:
    tensors = {**of("hysts"), "aux.weight": torch.ones(4, 128)}
    done = imported(saved(tmp_path, tensors), tmp_path / "ours.safetensors", set_aside=("aux.*",))
    wrn.convert(done.path, "hysts", tmp_path / "theirs.safetensors")
    assert torch.equal(load_file(tmp_path / "theirs.safetensors")["aux.weight"], tensors["aux.weight"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dialect": "tradez"}, "did you mean 'trades'"),
        ({"dialect": "szagoruyko"}, "not of the dialect szagoruyko: lacks conv0. It fits hysts"),
        ({"class_names": ("a", "b")}, "2 class names for .* head has 10 classes"),
        ({"dataset": "cifar11"}, "did you mean 'cifar10'"),
        ({"mean": (0.5,)}, "--mean and --std go together"),
        ({"mean": (0.5, 0.5), "std": (0.5, 0.5)}, "2 numbers; expected 3"),
        ({"ema": True}, "no averaged weights"),
    ],
)
def test_a_wrong_option_is_refused_with_what_was_expected(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises((UsageError, ModelFileError), match=message):
        imported(saved(tmp_path, of("hysts")), tmp_path / "ours.safetensors", **options)


def test_what_a_source_normalises_by_its_data_set_is_asked_where_the_classes_do_not_say(tmp_path: Path) -> None:
    path = saved(tmp_path, of("kekmodel-fixmatch", num_classes=37))
    with pytest.raises(UsageError, match=r"depends on the data set .*--dataset"):
        imported(path, tmp_path / "ours.safetensors", dialect="kekmodel-fixmatch")
    done = imported(path, tmp_path / "ours.safetensors", dialect="kekmodel-fixmatch", mean=(0.4,), std=(0.2,))
    assert done.preprocess.mean == (0.4, 0.4, 0.4)


def test_the_data_set_gives_its_normalisation_and_its_class_names(tmp_path: Path) -> None:
    done = imported(saved(tmp_path, of("cutout")), tmp_path / "o.safetensors", dialect="cutout", dataset="svhn")
    assert done.preprocess.mean == pytest.approx((109.9 / 255, 109.7 / 255, 113.8 / 255))
    assert load_model(done.path).card.class_names == tuple("0123456789")


def test_a_model_of_ours_is_written_under_the_keys_of_a_dialect_that_computes_the_same(tmp_path: Path) -> None:
    model = tmp_path / "ours.safetensors"
    imported(saved(tmp_path, of("hysts")), model)
    done = wrn.convert(model, "szagoruyko", tmp_path / "theirs.npz")
    back = np.load(tmp_path / "theirs.npz")
    assert np.array_equal(back["conv0"], load_model(model).model.state_dict()["backbone.stem.0.weight"].numpy())
    assert not any("num_batches_tracked" in key for key in back)
    assert any("dropout_at" in note for note in done.notes)


def test_under_keys_of_a_network_that_computes_otherwise_nothing_is_written(tmp_path: Path) -> None:
    model = tmp_path / "ours.safetensors"
    imported(saved(tmp_path, of("hysts")), model)
    with pytest.raises(UsageError, match=r"shortcut is activated, there raw.*compute as it does: .*xternalz"):
        wrn.convert(model, "ddu-plain", tmp_path / "theirs.pth")
    assert not (tmp_path / "theirs.pth").exists()


def test_no_file_is_written_over_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    saved(tmp_path, of("hysts"), "theirs.safetensors")
    assert run(["import", "theirs.safetensors", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["path"] == "theirs-wrn.safetensors"
    assert run(["import", "theirs.safetensors"]) == 2
    assert "theirs-wrn.safetensors: exists; name the file to write with --out" in capsys.readouterr().err
    assert run(["convert", "theirs-wrn.safetensors", "--dialect", "hysts"]) == 0
    assert "theirs-wrn-hysts.pth" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("dialect", "data_set"), [("deepmind-swish", "cifar10"), ("deepmind-relu", "cifar10"), ("trades", "")]
)
def test_on_real_pictures_the_right_one_of_the_dialects_that_share_keys_is_found(
    dialect: str, data_set: str, tmp_path: Path
) -> None:
    """A WRN-10-1 trained on the digits as that dialect has it, and given away under its keys."""
    row = find_dialect(dialect)
    source = dialects.input_for(row, 10, 3, data_set)
    assert source is not None
    given: dict[str, Any] = {"mean": source.mean, "std": source.std, "epochs": 5, "watch": QUIET}
    wrn.train("digits", arch=f"wrn_10_1.{dialect}", out=tmp_path / "run", size=16, **given)
    wrn.convert(tmp_path / "run", dialect, tmp_path / "theirs.safetensors")
    done = imported(tmp_path / "theirs.safetensors", tmp_path / "ours.safetensors", check="digits", size=16)
    assert row.name in done.candidates[0].names
    assert done.dialect == done.candidates[0].fit.dialect.name
    first, *others = [candidate.accuracy for candidate in done.candidates]
    assert first is not None
    assert all(other is None or other <= first for other in others)
    file = load_model(done.path)
    assert file.card.class_names == tuple("0123456789")
    assert file.card.figures["accuracy"] == first
    assert wrn.evaluate(done.path, "digits", watch=QUIET).accuracy > 0.8


def test_untrained_weights_are_not_taken_for_any_dialect(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no dialect gets these \d+ pictures right"):
        imported(saved(tmp_path, of("deepmind-relu")), tmp_path / "ours.safetensors", check="digits", size=8)
    assert not (tmp_path / "ours.safetensors").exists()


def test_data_of_other_classes_cannot_tell(tmp_path: Path) -> None:
    path = saved(tmp_path, of("deepmind-relu", num_classes=7))
    with pytest.raises(UsageError, match="--check digits: 10 classes; the head has 7"):
        imported(path, tmp_path / "ours.safetensors", check="digits")


def _forged(raw: bool) -> bytes:
    """Pickles that once built an array of objects over bytes of their own, whose hash then jumped there."""
    array = b"cnumpy\nndarray\n((I1\ntcnumpy\ndtype\n(S'O'\ntRS'AAAAAAAA'\ntR"
    return b"(dS'state_dict'\n" + (b"cbuiltins\nset\n(" + array + b"tR" if raw else array) + b"s."


@pytest.mark.parametrize(
    "pickled",
    [
        _forged(raw=True),
        _forged(raw=False),
        b"\x80\x04cargparse\nNamespace\nN}X\x08\x00\x00\x00__repr__c_codecs\nencode\ns\x86b.",
        b"\x80\x04ctorch._utils\n_rebuild_tensor_v2\nN}X\x0c\x00\x00\x00__defaults__)s\x86b.",
        b"cnumpy.evil\ndict\n.",
        b"NN\x86R.",
        b"cargparse\nNamespace\n(I1\ntR.",
    ],
)
def test_a_hostile_pickle_reaches_neither_memory_nor_classes_of_this_process(pickled: bytes, tmp_path: Path) -> None:
    (tmp_path / "theirs.pkl").write_bytes(pickled)
    before = (argparse.Namespace.__repr__, torch._utils._rebuild_tensor_v2.__defaults__)
    with pytest.raises(ModelFileError):
        imported(tmp_path / "theirs.pkl", tmp_path / "ours.safetensors", trust_pickle=True)
    assert (argparse.Namespace.__repr__, torch._utils._rebuild_tensor_v2.__defaults__) == before


def test_what_float32_does_not_hold_comes_back_exactly(tmp_path: Path) -> None:
    tensors = {key: value.double() for key, value in of("hysts").items()}
    tensors["fc.weight"] = tensors["fc.weight"] + 1e-12
    tensors["bn.num_batches_tracked"] = torch.tensor(123.75, dtype=torch.float64)
    done = imported(saved(tmp_path, tensors), tmp_path / "ours.safetensors")
    wrn.convert(done.path, "hysts", tmp_path / "theirs.safetensors")
    back = load_file(tmp_path / "theirs.safetensors")
    assert all(back[key].dtype == value.dtype and torch.equal(back[key], value) for key, value in tensors.items())


def test_normalisation_beside_a_wrapped_network_is_read_and_written_back(tmp_path: Path) -> None:
    inner = {f"model.{key}": value for key, value in of("robustbench-rice2020").items()}
    tensors = {**inner, "mu": torch.full((1, 3, 1, 1), 0.25), "sigma": torch.full((1, 3, 1, 1), 0.5)}
    done = imported(saved(tmp_path, tensors), tmp_path / "ours.safetensors")
    assert done.preprocess.mean == (0.25, 0.25, 0.25)
    wrn.convert(done.path, done.dialect, tmp_path / "theirs.safetensors")
    assert load_file(tmp_path / "theirs.safetensors").keys() == tensors.keys()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_names": ("a",) * 10}, "'a' is empty, comes twice"),
        ({"class_names": ("", *"bcdefghij")}, "'' is empty"),
        ({"class_names": ("a\nb", *"bcdefghij")}, "no line of text"),
        ({"dataset": "mnist"}, "mnist: has 10 classes and images of 1 channels; .* is for 10 and 3"),
        ({"dataset": "cifar100"}, "cifar100: has 100 classes"),
        ({"mean": (125.3,), "std": (63.0,)}, r"expected numbers for images in \[0, 1\]"),
        ({"mean": (0.5,), "std": (0.0,)}, "std above 0"),
        ({"size": 0}, "size=0"),
    ],
)
def test_numbers_and_names_that_cannot_be_are_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        imported(saved(tmp_path, of("hysts")), tmp_path / "ours.safetensors", **options)


def test_the_border_is_laid_around_pictures_of_the_size_that_is_said(tmp_path: Path) -> None:
    path = saved(tmp_path, of("deepmind-swish", in_channels=1))
    for size, expected in ((None, 28), (28, 28), (20, 20)):
        done = imported(path, tmp_path / "ours.safetensors", dialect="deepmind-swish", size=size)
        assert (done.preprocess.size, done.preprocess.border) == (expected, 2)


def test_an_input_that_follows_from_the_number_of_classes_is_told_as_assumed(tmp_path: Path) -> None:
    done = imported(saved(tmp_path, of("cutout")), tmp_path / "ours.safetensors", dialect="cutout")
    assert any("is assumed from its 10 classes" in note and "svhn" in note for note in done.notes)


def test_few_pictures_do_not_decide(tmp_path: Path) -> None:
    images = np.zeros((20, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "few.npz", test_images=images, test_labels=np.arange(20) % 10, class_names=list("abcdefghij"))
    path = saved(tmp_path, of("deepmind-relu"))
    with pytest.raises(UsageError, match="20 pictures are too few to tell"):
        imported(path, tmp_path / "ours.safetensors", check=tmp_path / "few.npz")


def test_neither_import_nor_convert_writes_over_what_it_reads(tmp_path: Path) -> None:
    theirs, ours = saved(tmp_path, of("hysts")), tmp_path / "ours.safetensors"
    with pytest.raises(UsageError, match="is the checkpoint itself"):
        imported(theirs, theirs)
    imported(theirs, ours)
    with pytest.raises(UsageError, match="is the model file itself"):
        wrn.convert(ours, "hysts", ours)
    with pytest.raises(UsageError, match=r"expected a name that ends in \.safetensors"):
        imported(theirs, tmp_path / "ours.pth")
    assert load_model(ours).card.imported["dialect"] == "hysts"


def test_a_normalisation_that_a_dialects_keys_cannot_say_is_not_dropped(tmp_path: Path) -> None:
    ours = tmp_path / "ours.safetensors"
    imported(saved(tmp_path, of("robustbench-ding2020mma")), ours, dialect="robustbench-ding2020mma")
    with pytest.raises(UsageError, match="standardised one by one"):
        wrn.convert(ours, "robustbench-rice2020", tmp_path / "theirs.pth")
    done = wrn.convert(ours, "xternalz", tmp_path / "theirs.pth")
    assert any("each image by its own mean and std" in note for note in done.notes)


def test_what_is_not_in_weights_is_told_when_they_are_given_away(tmp_path: Path) -> None:
    ours = tmp_path / "ours.safetensors"
    imported(saved(tmp_path, of("hysts")), ours, size=64)
    file = load_model(ours)
    checkpoint.save_model(ours, file.model.state_dict(), dataclasses.replace(file.card, temperature=2.5), file.extra)
    notes = " ".join(wrn.convert(ours, "xternalz", tmp_path / "theirs.pth").notes)
    assert "temperature 2.5" in notes
    assert "64 pixels" in notes
    assert "input mean .4914 .4822 .4465" in notes


def test_a_shape_that_a_dialects_code_cannot_build_is_refused(tmp_path: Path) -> None:
    ours = tmp_path / "ours.safetensors"
    uneven: dict[str, Any] = {"depth": 16, "num_blocks": (3, 1, 2), "widths": (40, 72, 56)}
    imported(saved(tmp_path, of("robustbench-huang2021", **uneven)), ours)
    with pytest.raises(UsageError, match=r"num_blocks is \(3, 1, 2\), there None"):
        wrn.convert(ours, "xternalz", tmp_path / "theirs.pth")


def test_a_projection_that_is_there_anyway_hinders_no_conversion(tmp_path: Path) -> None:
    ours = tmp_path / "ours.safetensors"
    imported(saved(tmp_path, of("davda54-sam")), ours)
    assert wrn.convert(ours, "xternalz", tmp_path / "theirs.pth").num_tensors > 0
    imported(saved(tmp_path, of("xternalz")), ours, dialect="xternalz")
    assert wrn.convert(ours, "davda54-sam", tmp_path / "back.pth").num_tensors > 0


def test_names_of_somebody_elses_move_no_terminal(tmp_path: Path) -> None:
    torch.save({"state_dict": of("hysts"), "evil\n\x1b[31m": 1}, tmp_path / "theirs.pth")
    done = imported(tmp_path / "theirs.pth", tmp_path / "ours.safetensors", trust_pickle=True)
    assert all(note.isprintable() for note in done.notes)


@pytest.mark.parametrize("how", ["a layer of another kind", "content of another file", "a link"])
def test_of_a_keras_file_nothing_is_skipped_and_nothing_else_read(how: str, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "theirs.h5"
    (tmp_path / "secret.bin").write_bytes(bytes(40))
    with h5py.File(path, "w") as file:
        for key, value in of("uncertainty-baselines").items():
            layer, leaf = key.split("/")
            if key != "dense/bias" or how == "a layer of another kind":
                file[f"{layer}/{layer}/{leaf}:0"] = value.numpy()
        if how == "a layer of another kind":
            file["scale_1/scale_1/gamma:0"] = np.ones(3, np.float32)
        elif how == "a link":
            file["dense/dense/bias:0"] = h5py.ExternalLink("other.h5", "/x")
        else:
            secret = [(str(tmp_path / "secret.bin"), 0, 40)]
            file.create_dataset("dense/dense/bias:0", (10,), np.float32, external=secret)
    with pytest.raises(ModelFileError, match=r"scale_1/gamma|own|lacks dense/bias"):
        imported(path, tmp_path / "ours.safetensors", dialect="uncertainty-baselines")
