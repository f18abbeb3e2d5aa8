"""Image transforms: torchvision's results, and no randomness but the sample's key."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torchvision.transforms import RandomResizedCrop, v2
from torchvision.transforms.v2 import functional as tv

from asgml.data.counter_rng import sample_keys
from asgml.data.media_transforms import ImageTransform, SpectrogramTransform, crop_boxes

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def rows(n: int, frames: int = 1, height: int = 40, width: int = 48) -> np.ndarray:
    smooth = np.random.default_rng(0).integers(0, 256, (n, frames, 5, 6, 3)).astype(np.uint8)
    return smooth.repeat(height // 5, axis=2).repeat(width // 6, axis=3)


def keys(n: int, epoch: int = 0) -> np.ndarray:
    return sample_keys(0, np.full(n, epoch), np.arange(n))


@pytest.mark.parametrize("frames", [1, 3])
def test_a_sample_looks_the_same_in_any_batch(frames):
    raw, k, transform = rows(9, frames), keys(9), ImageTransform(32, frames)
    whole = transform(raw, k, True)
    for part in ([3], [8, 0, 5], [2, 2]):
        assert torch.equal(transform(raw[part], k[part], True), whole[part])
    assert torch.equal(copy.deepcopy(transform)(raw, k, True), whole)


def test_keys_matter_in_training_only_and_nothing_else_does():
    raw, transform = rows(4), ImageTransform(32)
    torch.manual_seed(0)
    a = transform(raw, keys(4), True)
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    assert torch.equal(transform(raw, keys(4), True), a)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not torch.equal(transform(raw, keys(4, epoch=1), True), a)
    assert torch.equal(transform(raw, keys(4), False), transform(raw, keys(4, epoch=1), False))


def test_frames_of_a_sample_are_cropped_on_their_own():
    one = rows(1)
    out = ImageTransform(32, 3)(np.repeat(one, 3, axis=1), keys(1), True)
    assert out.shape == (1, 3, 3, 32, 32)
    assert not torch.equal(out[0, 0], out[0, 1])


def test_test_time_is_torchvisions_resize():
    raw = rows(3)
    pipeline = v2.Compose(
        [v2.Resize((32, 32), antialias=True), v2.ToDtype(torch.float32, True), v2.Normalize(MEAN, STD)]
    )
    expected = pipeline(torch.from_numpy(raw[:, 0]).permute(0, 3, 1, 2).contiguous())
    out = ImageTransform(32)(raw, keys(3), False)
    assert out.shape == (3, 3, 32, 32)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=0)


def test_training_is_torchvisions_resized_crop_of_its_box():
    raw, k = rows(20), keys(20)
    out = ImageTransform(32, flip=0.0)(raw, k, True)
    flipped = ImageTransform(32, flip=1.0)(raw, k, True)
    for i, box in enumerate(crop_boxes(k, 0, 40, 48, (0.08, 1.0)).tolist()):
        crop = tv.resized_crop(torch.from_numpy(raw[i, 0]).permute(2, 0, 1), *box, [32, 32], antialias=True)
        expected = tv.normalize(tv.to_dtype(crop, torch.float32, True), MEAN, STD)
        torch.testing.assert_close(out[i], expected, atol=0.02, rtol=0)  # one grey level: layouts round differently
        assert torch.equal(flipped[i], out[i].flip(-1))


def test_boxes_follow_torchvisions_distribution():
    n, height, width = 4000, 240, 320
    ours = crop_boxes(keys(n), 0, height, width, (0.08, 1.0))
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    theirs = np.array([RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(n)])
    top, left, h, w = ours.T
    assert top.min() >= 0
    assert left.min() >= 0
    assert (top + h).max() <= height
    assert (left + w).max() <= width
    for a, b in zip(ours.T, theirs.T):
        assert abs(a.mean() - b.mean()) < 5 * b.std() / np.sqrt(n / 2)
        assert abs(a.std() / b.std() - 1) < 0.08


def test_whole_image_where_no_box_fits():
    boxes = crop_boxes(keys(50), 0, 10, 100, (1.0, 1.0))  # ratio 10 is out of range: the largest centred 4:3 box
    assert (boxes == [0, 43, 10, 13]).all()


def test_half_of_the_samples_are_flipped():
    ramp = np.tile(np.arange(48, dtype=np.uint8)[None, None, None, :, None] * 5, (400, 1, 40, 1, 3))
    out = ImageTransform(16)(ramp, keys(400), True)
    turned = (out[:, 0, 0, 0] > out[:, 0, 0, -1]).float().mean()
    assert 0.4 < turned < 0.6


def test_spectrograms_pass_unchanged():
    raw = np.random.default_rng(0).normal(size=(2, 1, 4, 5)).astype(np.float32)
    raw.setflags(write=False)
    out = SpectrogramTransform()(raw, keys(2), True)
    assert torch.equal(out, torch.from_numpy(raw.copy()))
