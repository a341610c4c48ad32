"""Corrupted test images: their formulas, their seed, and how the severities are ordered."""

from __future__ import annotations

import pytest
import torch

from sharpness.data import Split, load_dataset
from sharpness.data.corruptions import CORRUPTIONS, corrupted
from sharpness.errors import InputError


@pytest.fixture(scope="module")
def split() -> Split:
    return load_dataset("fashion_mnist_10k", num_train=1, num_test=200).test


def grey(value: int, n: int = 400, side: int = 28) -> Split:
    return Split(torch.full((n, 1, side, side), value, dtype=torch.uint8), torch.arange(n) % 10)


@pytest.mark.parametrize("severity", [1, 3, 5])
def test_noise_is_normal_with_its_deviation_and_of_its_seed(severity: int) -> None:
    deviation = 255 * CORRUPTIONS["gaussian_noise"].constants[severity - 1]
    added = corrupted(grey(127), "gaussian_noise", severity, seed=3).inputs.double() - 127
    number = added.numel()
    quantiles = torch.special.ndtri((torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000)
    expected = (127 + deviation * quantiles).clamp(0, 255).round() - 127  # images have bytes, from 0 to 255
    assert abs(float(added.mean() - expected.mean())) < 5 * deviation / number**0.5
    assert float(added.var()) == pytest.approx(float(expected.var()), rel=5 * (2 / number) ** 0.5)
    within = (float((each.abs() < deviation).double().mean()) for each in (added, expected))
    assert next(within) == pytest.approx(next(within), abs=5 * 0.5 / number**0.5)
    again, other = (corrupted(grey(127), "gaussian_noise", severity, seed=s).inputs.double() - 127 for s in (3, 4))
    assert torch.equal(again, added)
    correlation = torch.corrcoef(torch.stack([other.flatten(), added.flatten()]))[0, 1]
    assert abs(float(correlation)) < 5 / number**0.5


def test_a_point_is_blurred_to_a_gaussian_and_a_border_repeats_itself() -> None:
    point = grey(0, n=1, side=31)
    point.inputs[0, 0, 15, 15] = 255
    sigma = CORRUPTIONS["gaussian_blur"].constants[-1]
    distances = torch.arange(31.0) - 15
    weights = torch.exp(-(distances**2) / (2 * sigma**2)) * (distances.abs() <= 4 * sigma)
    expected = 255 * torch.outer(weights, weights) / weights.sum() ** 2
    blurred = corrupted(point, "gaussian_blur", 5).inputs[0, 0]
    torch.testing.assert_close(blurred.float(), expected, rtol=0, atol=0.5001)
    assert torch.equal(corrupted(grey(200, n=2), "gaussian_blur", 5).inputs, grey(200, n=2).inputs)


def test_contrast_keeps_the_mean_of_every_channel_and_a_share_of_the_deviation() -> None:
    images = torch.randint(60, 200, (5, 3, 16, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    for severity, share in enumerate((0.75, 0.5, 0.4, 0.3, 0.15), 1):
        flat = corrupted(Split(images, torch.zeros(5).long()), "contrast", severity).inputs.double()
        mean = images.double().mean((2, 3), keepdim=True)
        torch.testing.assert_close(flat, mean + share * (images - mean), rtol=0, atol=0.5001)
        torch.testing.assert_close(flat.std((2, 3)), share * images.double().std((2, 3)), rtol=0.01, atol=0.05)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_higher_severity_is_further_from_the_image(split: Split, name: str) -> None:
    before = split.inputs.clone()
    distances = [(corrupted(split, name, s).inputs.float() - before).square().mean().item() for s in range(1, 6)]
    assert distances == sorted(distances) and 0 < distances[0] < 0.9 * distances[-1]
    assert torch.equal(split.inputs, before)  # a function of the images, not a change of them
    assert torch.equal(corrupted(split, name, 1).targets, split.targets)


def test_bad_requests_are_named(split: Split) -> None:
    with pytest.raises(InputError, match="unknown corruption 'fog': expected one of contrast"):
        corrupted(split, "fog", 1)
    for severity in (0, 6):
        with pytest.raises(InputError, match=f"expected a severity from 1 to 5, got {severity}"):
            corrupted(split, "contrast", severity)
