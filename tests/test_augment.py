"""Augmentation equals its definition, and what is drawn for an image depends on nothing but seed, epoch and image."""

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from wideresnet import augment


@settings(max_examples=40, deadline=None)
@given(
    st.integers(5, 12), st.integers(5, 12), st.integers(0, 4), st.booleans(), st.sampled_from([1, 3]), st.integers(0)
)
def test_the_gather_equals_reflect_pad_crop_then_mirror(
    height: int, width: int, padding: int, flip: bool, channels: int, seed: int
) -> None:
    images = torch.randint(0, 256, (6, channels, height, width), dtype=torch.uint8)
    draws = augment.draw(6, flip=flip, crop_padding=padding, seed=seed, epoch=1)
    got = augment.apply(images, draws, torch.arange(6))
    padded = F.pad(images.float(), (padding,) * 4, mode="reflect").to(torch.uint8)
    for i in range(6):
        top, left = padding + int(draws.down[i]), padding + int(draws.right[i])
        expected = padded[i, :, top : top + height, left : left + width]
        assert torch.equal(got[i], expected.flip(2) if draws.mirrored[i] else expected)


def test_every_shift_and_both_mirrorings_come_up_equally_often() -> None:
    draws = augment.draw(90_000, flip=True, crop_padding=4, seed=0, epoch=1)
    for shifts in (draws.down, draws.right):
        counts = torch.bincount(shifts + 4, minlength=9)
        assert len(counts) == 9
        assert ((counts - 10_000).abs() < 500).all(), counts  # five standard deviations
    assert abs(int(draws.mirrored.sum()) - 45_000) < 750


def test_without_flip_and_padding_an_image_stays_bit_for_bit() -> None:
    images = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    draws = augment.draw(4, flip=False, crop_padding=0, seed=0, epoch=1)
    assert torch.equal(augment.apply(images, draws, torch.arange(4)), images)


def test_an_image_is_augmented_the_same_in_whatever_batch_it_comes_and_anew_in_each_epoch() -> None:
    images = torch.randint(0, 256, (32, 3, 8, 8), dtype=torch.uint8)
    first = augment.draw(32, flip=True, crop_padding=2, seed=3, epoch=1)
    alone = torch.cat([augment.apply(images[i : i + 1], first, torch.tensor([i])) for i in range(32)])
    assert torch.equal(augment.apply(images, first, torch.arange(32)), alone)
    second = augment.draw(32, flip=True, crop_padding=2, seed=3, epoch=2)
    assert not torch.equal(augment.apply(images, second, torch.arange(32)), alone)
