"""The task of naming a picture's class: batches, loss and validation as the recipe says."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import pixels
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from wideresnet import classification, engines, kernels, runtime, training
from wideresnet.data import Pictures, Stream, read
from wideresnet.data.decoding import sums_of
from wideresnet.data.streams import Decoder
from wideresnet.errors import TrainingStopped, UsageError
from wideresnet.model import WideResNetClassifier
from wideresnet.preprocess import Preprocess
from wideresnet.recipes import RECIPES, change

CPU = torch.device("cpu")
PREPROCESS = Preprocess(size=8, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.1))


def pictures(num: int) -> Pictures:
    images = torch.randint(0, 256, (num, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    names = tuple(f"p{i}" for i in range(num))
    return Pictures(images, torch.arange(num) % 3, names, tuple(name.encode() for name in names))


def test_without_augmentation_an_epoch_is_every_picture_once_normalised_and_shuffled() -> None:
    recipe = change(RECIPES["fast"], {"batch_size": 10, "flip": False, "crop_padding": 0, "drop_last": False})
    train = pictures(25)
    epochs = classification.batches(train, PREPROCESS, recipe, 0, CPU)
    batches = list(epochs(1))
    assert [len(batch.labels) for batch in batches] == [10, 10, 5]
    whole = PREPROCESS.normalise(pixels(train))
    seen = [int((whole == image).all((1, 2, 3)).nonzero()) for batch in batches for image in batch.images]
    assert sorted(seen) == list(range(25))
    assert seen != list(range(25))
    assert [int(label) for batch in batches for label in batch.labels] == [i % 3 for i in seen]
    assert not torch.equal(batches[0].images, next(epochs(2)).images), "each epoch has its own order"
    assert torch.equal(batches[0].images, next(epochs(1)).images)


def test_the_short_batch_is_left_out_or_kept_as_the_recipe_says() -> None:
    for drop_last, expected in ((True, [10, 10]), (False, [10, 10, 5])):
        recipe = change(RECIPES["fast"], {"batch_size": 10, "drop_last": drop_last})
        batches = list(classification.batches(pictures(25), PREPROCESS, recipe, 0, CPU)(1))
        assert [len(batch.labels) for batch in batches] == expected
        assert classification.steps_per_epoch(25, recipe) == len(expected)


@pytest.mark.parametrize(
    ("field", "value"),
    {
        "flip": True,
        "crop_padding": 2,
        "zoom": 0.4,
        "policy": "trivial",
        "jitter": (0.4, 0.4, 0.4, 0.1),
        "cutout": 4,
        "erasing": 0.9,
    }.items(),
)
def test_a_picture_s_augmentation_does_not_depend_on_the_size_of_its_batch(field: str, value: Any) -> None:
    options = {"flip": False, "crop_padding": 0} | {field: value}
    found = []
    for batch_size in (4, 12):
        recipe = change(RECIPES["fast"], {"batch_size": batch_size, **options})
        batches = classification.batches(pictures(24), PREPROCESS, recipe, 7, CPU)(1)
        found.append(torch.cat([batch.images for batch in batches]))
    assert torch.equal(found[0], found[1])
    plain = change(RECIPES["fast"], {"batch_size": 12, "flip": False, "crop_padding": 0})
    unchanged = torch.cat([b.images for b in classification.batches(pictures(24), PREPROCESS, plain, 7, CPU)(1)])
    assert not torch.equal(found[0], unchanged), f"{field} does nothing"


def test_an_epoch_goes_on_at_any_step_and_reads_no_picture_of_those_before(tmp_path: Path) -> None:
    whole = pictures(18)
    for i, image in enumerate(pixels(whole)):
        path = tmp_path / "abc"[i // 6] / f"{i:02}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    listing = read(tmp_path).splits["all"]
    sums = sums_of(pixels(whole))
    stream = Stream(Decoder([*listing.sources], listing.names, PREPROCESS, sums, 1), torch.arange(18))
    train = dataclasses.replace(whole, images=stream, names=tuple(listing.names))
    recipe = change(RECIPES["fast"], {"batch_size": 5, "mixup": 1.0, "cutmix": 1.0, "balanced": True})
    epochs = classification.batches(train, PREPROCESS, recipe, 3, CPU)
    expected = list(epochs(1))
    for step in range(4):
        for got, batch in zip(epochs(1, step), expected[step:], strict=True):
            assert torch.equal(got.images, batch.images)
            assert torch.equal(got.labels, batch.labels)
            assert got.share == batch.share
    order, _ = classification.epoch_order(train.labels, runtime.generator(3, "order", 1), balanced=True)
    for row in order[:10].tolist():
        (tmp_path / listing.names[row]).unlink()
    assert torch.equal(next(epochs(1, 2)).images, expected[2].images)
    with pytest.raises(TrainingStopped, match="no such file"):
        next(epochs(1, 1))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_cross_entropy_against_smoothed_targets(smoothing: float) -> None:
    recipe = change(RECIPES["fast"], {"label_smoothing": smoothing})
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 0.5, 0.0]])
    batch = classification.Batch(logits, torch.tensor([0, 2]))
    result = classification.loss(recipe)(nn.Identity(), batch)
    target = F.one_hot(batch.labels, 3) * (1 - smoothing) + smoothing / 3  # Szegedy et al. 2016, section 7
    expected = -(target * logits.log_softmax(1)).sum(1).mean()
    assert float(result.mean) == pytest.approx(float(expected), rel=1e-6)
    assert (result.num_examples, int(result.sums["accuracy"])) == (2, 1)


@pytest.mark.parametrize("field", ["mixup", "cutmix"])
def test_a_mixed_batch_is_its_pictures_and_their_partners_in_the_shares_of_its_labels(field: str) -> None:
    plain = change(RECIPES["fast"], {"batch_size": 12, "flip": False, "crop_padding": 0})
    train = pictures(24)
    own = list(classification.batches(train, PREPROCESS, plain, 7, CPU)(1))
    mixed = list(classification.batches(train, PREPROCESS, change(plain, {field: 1.0}), 7, CPU)(1))
    assert mixed[0].share != mixed[1].share
    for before, batch in zip(own, mixed, strict=True):
        assert torch.equal(batch.labels, before.labels)
        assert batch.partners is not None
        assert torch.equal(batch.partners, before.labels.roll(1))
        partners = before.images.roll(1, 0)
        if field == "mixup":
            torch.testing.assert_close(batch.images, batch.share * before.images + (1 - batch.share) * partners)
        else:
            kept = (batch.images == before.images).all((0, 1))
            assert torch.equal(batch.images, torch.where(kept, before.images, partners))
            assert batch.share == pytest.approx(float(kept.double().mean()))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_mixed_pictures_is_cross_entropy_against_mixed_targets(smoothing: float) -> None:
    recipe = change(RECIPES["fast"], {"label_smoothing": smoothing})
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 0.5, 0.0]])
    labels, partners = torch.tensor([0, 2]), torch.tensor([1, 1])
    for share, right in ((0.7, 1), (0.3, 1), (0.5, 1), (1.0, 1), (0.0, 1)):
        batch = classification.Batch(logits, labels, partners, share)
        result = classification.loss(recipe)(nn.Identity(), batch)
        hard = share * F.one_hot(labels, 3) + (1 - share) * F.one_hot(partners, 3)
        expected = F.cross_entropy(logits, hard, label_smoothing=smoothing)
        assert float(result.mean) == pytest.approx(float(expected), rel=1e-6)
        assert int(result.sums["accuracy"]) == right  # picture 0 of its own label, picture 1 of its partner's
        assert result.num_examples == 2


def test_validation_counts_every_picture_the_last_short_batch_too() -> None:
    torch.manual_seed(0)
    model = WideResNetClassifier(3, 10, 1)
    val = pictures(engines.AT_ONCE + 44)
    row = classification.validation(val, PREPROCESS, CPU)(model)
    with torch.no_grad():
        logits = model.eval()(PREPROCESS.normalise(pixels(val)))
    assert row["val_accuracy"] == row["score"] == pytest.approx(float((logits.argmax(1) == val.labels).float().mean()))
    assert row["val_loss"] == pytest.approx(float(F.cross_entropy(logits, val.labels)), rel=1e-5)
    assert classification.validation(None, PREPROCESS, CPU)(model) == {}


def test_an_engine_answers_any_number_of_pictures_none_too_and_says_what_it_is() -> None:
    torch.manual_seed(0)
    engine = engines.choose(WideResNetClassifier(3, 10, 1).train(), PREPROCESS, CPU)
    assert engine.name == ("torch" if kernels.isa() == "none" else "kernels")
    assert "on cpu" in engine.reason
    assert engine.compute(pictures(5).images).shape == (5, 3)
    assert engine.compute(pictures(0).images).shape == (0, 3)
    logits = engine.compute(pictures(5).images)
    torch.testing.assert_close(engine.compute(pixels(pictures(5))[2:3]), logits[2:3], rtol=1e-4, atol=1e-5)
    assert math.isfinite(float(logits.sum()))


@pytest.mark.skipif(kernels.isa() == "none", reason=f"kernels: {kernels.state()}")
def test_each_engine_is_chosen_by_name_and_they_agree_on_every_picture() -> None:
    torch.manual_seed(0)
    model, images = WideResNetClassifier(3, 16, 2), pixels(pictures(100))
    ours, torchs = (engines.choose(model, PREPROCESS, CPU, name) for name in ("kernels", "torch"))
    assert (ours.name, torchs.name) == ("kernels", "torch")
    assert kernels.isa() in ours.reason
    expected = torchs.compute(images)
    assert not torch.equal(ours.compute(images), expected)  # so that it is another that computed it
    torch.testing.assert_close(ours.compute(images), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_an_engine_that_cannot_compute_a_network_is_refused_by_name_and_passed_over_otherwise() -> None:
    other = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 3))
    with pytest.raises(UsageError, match=r"--engine kernels: .*; leave --engine out"):
        engines.choose(other, PREPROCESS, CPU, "kernels")
    assert engines.choose(other, PREPROCESS, CPU).name == "torch"
    with pytest.raises(UsageError, match=r"--engine kernel\b.*kernels"):
        engines.choose(other, PREPROCESS, CPU, "kernel")  # type: ignore[arg-type]


def test_the_larger_pictures_are_the_fewer_an_engine_computes_at_once() -> None:
    model = WideResNetClassifier(3, 10, 1)
    engine = engines.choose(model, PREPROCESS, CPU, "torch")
    seen: list[int] = []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    for size, at_once in ((8, 256), (32, 256), (64, 64), (128, 16), (513, 1)):
        seen.clear()
        engine.compute(torch.zeros(2 * at_once, 3, size, size, dtype=torch.uint8))
        assert seen == [at_once, at_once]


@pytest.mark.parametrize("temperature", [1.0, 0.4, 3.0])
def test_test_time_augmentation_averages_the_probabilities_of_a_picture_and_its_mirror_image(
    temperature: float,
) -> None:
    torch.manual_seed(0)
    engine = engines.choose(WideResNetClassifier(3, 10, 1).train(), PREPROCESS, CPU)
    images = pictures(5).images
    assert isinstance(images, torch.Tensor)
    both = engines.with_tta(engine, "flip", temperature)
    probs = [(engine.compute(view) / temperature).softmax(1) for view in (images, images.flip(3))]
    torch.testing.assert_close((both.compute(images) / temperature).softmax(1), (probs[0] + probs[1]) / 2)
    assert not torch.allclose(both.compute(images), engine.compute(images))
    torch.testing.assert_close(both.compute(images), both.compute(images.flip(3)))
    assert both.compute(images[:0]).shape == (0, 3)
    assert both.reason == f"{engine.reason}, probabilities averaged over each picture and its mirror image"
    assert engines.with_tta(engine, "none", temperature) is engine


LABELS = torch.tensor([0] * 60 + [1] * 9 + [2] * 3)


@given(counts=st.lists(st.integers(1, 30), min_size=2, max_size=6), seed=st.integers(0, 9))
def test_a_balanced_epoch_has_as_many_of_each_class_and_every_picture_of_a_rare_one(
    counts: list[int], seed: int
) -> None:
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    order, draws = classification.epoch_order(labels, torch.Generator().manual_seed(seed), balanced=True)
    again, _ = classification.epoch_order(labels, torch.Generator().manual_seed(seed), balanced=True)
    assert torch.equal(order, again)
    assert len(order) == len(labels)
    assert sorted(draws.tolist()) == list(range(len(labels))), "each time a picture comes it is changed in another way"
    of_class = torch.bincount(labels[order], minlength=len(counts))
    assert int(of_class.max() - of_class.min()) <= 1
    times = torch.bincount(order, minlength=len(labels))
    for label in range(len(counts)):
        own = times[labels == label]
        assert int(own.max() - own.min()) <= 1


def test_a_balanced_epoch_has_its_own_order_and_its_batches_the_usual_lengths() -> None:
    train = dataclasses.replace(pictures(72), labels=LABELS)
    recipe = change(RECIPES["fast"], {"batch_size": 10, "drop_last": False, "balanced": True})
    epochs = classification.batches(train, PREPROCESS, recipe, 0, CPU)
    assert [len(batch) for batch in epochs(1)] == [10] * 7 + [2]
    assert torch.bincount(torch.cat([batch.labels for batch in epochs(1)])).tolist() == [24, 24, 24]
    assert not torch.equal(next(epochs(1)).labels, next(epochs(2)).labels)


def test_class_weights_are_inverse_to_the_numbers_and_of_mean_1_over_the_pictures() -> None:
    weights = classification.class_weights(LABELS, 4)
    assert float(weights[LABELS].mean()) == pytest.approx(1)
    assert weights.tolist() == pytest.approx([72 / 3 / 60, 72 / 3 / 9, 72 / 3 / 3, 0])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_weighted_loss_is_torch_s_for_each_picture_and_its_mean_is_over_the_pictures(smoothing: float) -> None:
    recipe = change(RECIPES["fast"], {"label_smoothing": smoothing})
    weights = torch.tensor([0.5, 1.0, 3.0])
    logits, labels = torch.randn(8, 3, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3
    target = (F.one_hot(labels, 3) * (1 - smoothing) + smoothing / 3) * weights
    expected = float(-(target * logits.log_softmax(1)).sum(1).mean())
    batch, loss = classification.Batch(logits, labels), classification.loss(recipe, weights)
    assert float(loss(nn.Identity(), batch).mean) == pytest.approx(expected, rel=1e-6)
    parts = [loss(nn.Identity(), batch[rows]) for rows in (slice(0, 3), slice(3, 8))]
    assert (3 * float(parts[0].mean) + 5 * float(parts[1].mean)) / 8 == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("remedy", ["class_weights", "balanced"])
def test_weights_and_balance_find_more_of_a_rare_class(remedy: str) -> None:
    generator = torch.Generator().manual_seed(0)

    def made(counts: tuple[int, int]) -> Pictures:  # grey noise; class 1 a little brighter, so that they overlap
        labels = torch.repeat_interleave(torch.arange(2), torch.tensor(counts))
        noise = 40 * torch.randn(len(labels), 1, 1, 1, generator=generator)
        images = (110 + 50 * labels[:, None, None, None] + noise).clamp(0, 255).expand(-1, 3, 8, 8)
        names = tuple(map(str, range(len(labels))))
        return Pictures(images.to(torch.uint8), labels, names, tuple(name.encode() for name in names))

    train, judged = made((190, 10)), made((100, 100))
    recalls = []
    for changes in ({}, {remedy: True}):
        recipe = change(RECIPES["fast"], {"epochs": 3, "batch_size": 20, "lr": 0.05, "flip": False, **changes})
        torch.manual_seed(0)
        state = training.start(WideResNetClassifier(2, 10, 1), recipe)
        weights = classification.class_weights(train.labels, 2) if recipe.class_weights else None
        training.fit(
            state,
            classification.batches(train, PREPROCESS, recipe, 0, CPU),
            classification.loss(recipe, weights),
            lambda _: {},
            recipe=recipe,
            steps_per_epoch=10,
            seed=0,
            save=lambda *_: None,
        )
        answers = engines.choose(state.model, PREPROCESS, CPU).compute(judged.images).argmax(1)
        recalls.append(float((answers[100:] == 1).float().mean()))
    assert recalls[1] > recalls[0] + 0.2, recalls
