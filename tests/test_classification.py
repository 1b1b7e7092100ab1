"""The task of naming a picture's class: batches, loss and validation as the recipe says."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from wideresnet import classification, engines
from wideresnet.data import Pictures
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
    whole = PREPROCESS.normalise(train.images)
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


@pytest.mark.parametrize("field", ["flip", "crop_padding"])
def test_a_picture_s_augmentation_does_not_depend_on_the_size_of_its_batch(field: str) -> None:
    options = {"flip": False, "crop_padding": 0} | {field: 2 if field == "crop_padding" else True}
    found = []
    for batch_size in (4, 12):
        recipe = change(RECIPES["fast"], {"batch_size": batch_size, **options})
        batches = classification.batches(pictures(24), PREPROCESS, recipe, 7, CPU)(1)
        found.append(torch.cat([batch.images for batch in batches]))
    assert torch.equal(found[0], found[1])
    plain = change(RECIPES["fast"], {"batch_size": 12, "flip": False, "crop_padding": 0})
    unchanged = torch.cat([b.images for b in classification.batches(pictures(24), PREPROCESS, plain, 7, CPU)(1)])
    assert not torch.equal(found[0], unchanged), f"{field} does nothing"


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


def test_validation_counts_every_picture_the_last_short_batch_too() -> None:
    torch.manual_seed(0)
    model = WideResNetClassifier(3, 10, 1)
    val = pictures(engines.BATCH_SIZE + 44)
    row = classification.validation(val, PREPROCESS, CPU)(model)
    with torch.no_grad():
        logits = model.eval()(PREPROCESS.normalise(val.images))
    assert row["val_accuracy"] == row["score"] == pytest.approx(float((logits.argmax(1) == val.labels).float().mean()))
    assert row["val_loss"] == pytest.approx(float(F.cross_entropy(logits, val.labels)), rel=1e-5)
    assert classification.validation(None, PREPROCESS, CPU)(model) == {}


def test_an_engine_answers_any_number_of_pictures_none_too_and_says_what_it_is() -> None:
    torch.manual_seed(0)
    engine = engines.choose(WideResNetClassifier(3, 10, 1).train(), PREPROCESS, CPU)
    assert engine.name == "torch"
    assert engine.reason.endswith("on cpu")
    assert engine.compute(pictures(5).images).shape == (5, 3)
    assert engine.compute(pictures(0).images).shape == (0, 3)
    logits = engine.compute(pictures(5).images)
    torch.testing.assert_close(engine.compute(pictures(5).images[2:3]), logits[2:3], rtol=1e-4, atol=1e-5)
    assert math.isfinite(float(logits.sum()))
