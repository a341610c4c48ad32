"""Expected costs of measurements, held against what they took, counted in passes over the data."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sharpness import Loss
from sharpness.measure.costs import FORWARD, PRODUCT, WORK, Work, cheapest_first, expected_work, in_gradients, price_of
from sharpness.measure.runner import probes_named
from sharpness.probes import PROBES, GradientNoise

# Their passes are over batches or single examples, which records count one by one.
BY_BATCHES = {"gradient_noise", "batch_sharpness", "interaction", "learning_coefficient", "preconditioned_sharpness"}
BY_BATCHES |= {"preconditioned_noise"}
OTHER_POINTS = {"distance", "interpolation", "geodesic_sharpness"}
FEWER: dict[str, dict[str, int]] = {
    "density": {"steps": 20, "starts": 2},
    "occam": {"steps": 20, "starts": 2},
    "pac_bayes": {"num_pairs": 5},
}
"""What makes the longest ones shorter, and their expected work with them."""


def trained_loss() -> Loss:
    """A network of 371 parameters near a minimum of its loss on 60 noisy examples, in two uneven batches."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 24), nn.Tanh(), nn.Linear(24, 4))
    x = torch.randn(60, 10)
    y = (x[:, 0] > 0).long() + 2 * (x[:, 1] > 0.3 * torch.randn(60)).long()
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(150):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return Loss(model, F.cross_entropy, [(x[:37], y[:37]), (x[37:], y[37:])])


def test_every_probe_has_its_expected_work() -> None:
    assert WORK.keys() == PROBES.keys()


@pytest.mark.dear
def test_the_expected_passes_are_right_within_a_factor_of_two() -> None:
    loss = trained_loss()
    probes = probes_named(["all"]) | {"quick trace": probes_named(["quick"])["trace"]}
    expected, counted = 0.0, 0.0
    for name, probe in probes.items():
        if name in BY_BATCHES | OTHER_POINTS:
            continue
        probe = replace(probe, **FEWER.get(name, {}))
        result = probe(loss)
        passes = FORWARD * result.num_forwards + result.num_gradients + PRODUCT * result.num_hvps
        work = in_gradients(loss).seconds(WORK[name.removeprefix("quick ")](probe, loss))
        assert work <= 4 * passes + 3 and passes <= 4 * work + 3, (name, work, passes)
        expected, counted = expected + work, counted + passes
    assert 0.5 < expected / counted < 2


@pytest.mark.parametrize("num_hvps", [0, 7])
def test_the_noise_scale_takes_a_gradient_of_every_example_and_a_product_for_some(num_hvps: int) -> None:
    loss = trained_loss()
    probe = GradientNoise(num_hvps=num_hvps)
    work, result = WORK["gradient_noise"](probe, loss), probe(loss)
    assert (work.examples + work.gradients, work.products) == (result.num_gradients, result.num_hvps)


def test_a_loss_of_whole_batches_has_no_gradients_of_single_examples() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2))
    batches = [(torch.randn(9, 4), torch.randint(2, (9,))), (torch.randn(7, 4), torch.randint(2, (7,)))]
    loss = Loss(model, F.cross_entropy, batches, norm="batch")
    assert WORK["gradient_noise"](GradientNoise(num_hvps=0), loss) == Work(gradients=2)
    price = price_of(loss, Work(examples=16), products=False)
    assert price.example > 0
    sums = Loss(nn.Linear(4, 2), nn.CrossEntropyLoss(reduction="sum"), batches)  # its noise scale is refused
    assert price_of(sums, Work(examples=16), products=False).example > 0


def test_the_cheapest_come_first_and_a_trace_after_the_eigenvalue_whose_products_it_takes() -> None:
    loss = trained_loss()
    for group in ("quick", "all"):
        probes = probes_named([group])
        ordered = cheapest_first(dict(reversed(probes.items())), loss)
        costs = [in_gradients(loss).seconds(WORK[name](probe, loss)) for name, probe in ordered.items()]
        assert ordered.keys() == probes.keys() and costs == sorted(costs) and costs[0] == 0 < costs[-1]
        assert list(ordered).index("eigenvalues") < list(ordered).index("trace")


@pytest.mark.parametrize("timed", [False, True])
def test_prices_are_positive_and_nothing_costs_nothing(timed: bool) -> None:
    loss = trained_loss()
    price = price_of(loss, Work(gradients=1, examples=timed), products=timed)
    assert min(price.forward, price.gradient, price.product, price.example) > 0
    works = expected_work(probes_named(["norms", "sam"]), loss)
    seconds = {name: price.seconds(work) for name, work in works.items()}
    assert seconds == {"norms": 0.0, "sam": pytest.approx(2 * price.gradient)}
