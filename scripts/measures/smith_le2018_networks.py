"""The trained networks of `smith_le2018.py`: one hidden layer on cells of images, all seeds side by side.

They are as small as that because a peak of the accuracy needs many of them. Plain SGD with momentum is all that is
varied, so that they are trained by `descent`, which the tests hold against torch.optim.SGD, and not by the trainer,
which takes fifty times as long for as many of them. Batches are drawn anew at each update, as the theory has it, where
the trainer goes through all examples in turn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from scripts.measures.cells import scaled
from scripts.measures.descent_and_diffusion import Problem, Weights, descent
from scripts.measures.smith_le2018_evidence import whole_dataset
from scripts.runner.grid import Rows
from scripts.runner.site import Site
from sharpness.data import DATASETS
from sharpness.data.label_noise import with_random_labels
from sharpness.machine.environment import derived_seed
from sharpness.models.fully_connected import relu_network

CHUNK = 1000
"""Test images of one forward pass of all copies."""


def network_losses(weights: Weights, inputs: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy (nats) of each example of each copy."""
    logits = outputs(weights, inputs)
    return cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)


def outputs(weights: Weights, inputs: Tensor) -> Tensor:
    """Return the logits of networks with one hidden layer, (copies, examples, classes)."""
    first, bias, last, end = weights
    hidden = torch.relu(torch.baddbmm(bias[:, None], inputs, first.mT))
    return torch.baddbmm(end[:, None], hidden, last.mT)


def first_weights(site: Site, cells: int, hidden: int, seeds: Sequence[int]) -> list[Tensor]:
    """Return the initial weights of a network for each seed, stacked."""
    classes, networks = DATASETS[site.config.data.name].num_classes, []
    for seed in seeds:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            networks.append(relu_network(hidden)((cells, cells), classes, "none"))
    return [
        torch.stack(each).detach().to(site.device) for each in zip(*(net.parameters() for net in networks), strict=True)
    ]


def problem_of(site: Site, images: int, cells: int, noise: float, seeds: Sequence[int]) -> Problem:
    """Return the first so many images as cells, and for each seed their labels, a share of which are random."""
    dataset = whole_dataset(site.config.data.name, site.data_dir)
    split, classes = dataset.train.first(images), dataset.num_classes
    labels = [with_random_labels(split.targets, classes, noise, derived_seed(seed, "label noise")) for seed in seeds]
    inputs, targets = scaled(split, cells, split), torch.stack(labels)
    return Problem(network_losses, inputs.to(site.device), targets.to(site.device))


def scaled_tests(site: Site, images: int, cells: int) -> tuple[Tensor, Tensor]:
    """Return all test images as cells, scaled as the first so many training images are, and their labels."""
    dataset = whole_dataset(site.config.data.name, site.data_dir)
    inputs = scaled(dataset.test, cells, dataset.train.first(images))
    return inputs.to(site.device), dataset.test.targets.to(site.device)


def accuracies(weights: Weights, inputs: Tensor, targets: Tensor) -> Tensor:
    """Return the share of right answers of each copy, shape (copies,)."""
    right = torch.zeros(len(weights[0]), device=inputs.device)
    with torch.no_grad():
        for x, y in zip(inputs.split(CHUNK), targets.split(CHUNK), strict=True):
            right += (outputs(weights, x.expand(len(right), *x.shape)).argmax(2) == y).sum(1)
    return right / len(targets)


def accuracy_after(
    site: Site,
    *,
    images: int,
    cells: int,
    hidden: int,
    noise: float,
    rate: float,
    momentum: float,
    batch: int,
    looks: Sequence[int],
    seeds: Sequence[int],
) -> Rows:
    """Train a network for each seed and return test accuracy and train loss after each of the numbers of updates.

    A network whose loss is not finite any more has no accuracy: ``diverged`` says so.
    """
    problem = problem_of(site, images, cells, noise, seeds)
    tests, start = scaled_tests(site, images, cells), first_weights(site, cells, hidden, seeds)
    drawn, rows = derived_seed(0, "batches", batch, images), []
    for update, weights in enumerate(descent(problem, start, batch, rate, looks[-1], drawn, momentum), 1):
        if update in looks:
            site.progress(update, looks[-1])
            losses, right = problem.loss(weights), accuracies(weights, *tests)
            for seed, loss, accuracy in zip(seeds, losses.tolist(), right.tolist(), strict=True):
                fine = math.isfinite(loss)
                numbers = {"accuracy": accuracy if fine else None, "train_loss": loss if fine else None}
                rows.append({"seed": seed, "updates": update, "diverged": not fine, **numbers})
    return rows
