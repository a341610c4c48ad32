"""Small batch against large batch: Keskar et al. 2017 (arXiv 1609.04836).

Networks that differ in the batch size alone (SB, LB) are trained, measured and rendered. The preset cpu has the first
stage, the others have all four:

- the pairs of one network: how sharp both minima are (top Hessian eigenvalue, Metric 2.1), what lies on the line
  between them, and whether sharpness goes with the generalisation gap;
- the pairs of every network as in Tables 2 to 4: accuracies, and sharpness in the full space and in 100 random
  dimensions, in both boxes, as published and climbed until it stops growing; how far each solution lies from where it
  started; Figures 1, 2, 3 and 7: a sketch of a flat and a sharp minimum from measured curves, training curves, the line
  and the arc between the solutions;
- on one network Figures 4, 5 and 6, batch size, warm starts of LB from SB and sharpness along training, and Appendix E:
  augmentation, conservative training, robust training (as SAM), and batches that grow;
- on the same network what the critics ask for: learning rates tuned on held-out data, scaled linearly and by the square
  root, equal updates, and equal training loss.

What to expect, on two CPU cores:

- cpu: about 4 minutes. Ten pairs of a small network without BatchNorm on 2,000 images, a fifth of their labels random,
  to one training loss. LB is worse in test accuracy (-2.4 points, -2.7 to -2.2) and sharper (top eigenvalue 7.6 times,
  Metric 2.1 52 times, in units of the weights 1.5 times); no difference in test loss is resolved, and no association of
  sharpness with accuracy within one batch size.
- headline: about 50 minutes, a study of its own in the findings. Whether sharpness goes with generalisation over runs
  that end at one training loss, 34 a seed but for augmentation and what goes on from a minimum: batch sizes, label
  noise, starts, remedies, rates; by measures that a rescaling moves and by others that it does not. Of 26 claims 16
  are reproduced. Sharper minima have a lower test accuracy (Kendall's tau -0.24 for the top eigenvalue, -0.38 in
  units of the weights), and a lower test loss but by the latter (+0.32). At one rate LB is sharper (17 times) and
  worse (-1.0 points); with the linear rate it is eight times flatter. The rate decides: with LB at its best, SB is up
  to 22 times sharper or 32 times flatter over the rates tried, three of which are as good on held-out images. SB
  leaves the sharp minima that LB found for flatter ones, which generalise no better (-0.9 points).
- full: under an hour (58 minutes beside other work). Five seeds of F1, of the main job's network without label noise
  and of a convolutional network with it, and a narrow F1 for all else. Of 24 claims 12 are reproduced, 4 inconclusive,
  8 not testable here, most of them because the narrow F1 has no resolved gap in accuracy that could be closed. LB is
  sharper in each (20 times, 9.1 to 44) and worse in two: -3.3 points for the convolutional network, -1.1 without label
  noise; for both F1 no difference is resolved, nor is the mean over the four (-1.1, -3.6 to +1.3).
- smoke: 15 seconds; its numbers mean nothing.
- paper and timit: for a GPU; never run.

F2 of the paper needs TIMIT, which is licensed and not here: it was not run. Give your own features as timit.npz
(arrays train_inputs and test_inputs of frames x 360 floats, train_targets and test_targets of class numbers 0 to 1972)
in a folder and run ``--preset timit --data-dir FOLDER``.

Every stage skips what is already there, so the same command goes on after a stop of any kind.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # analysis/ and scripts/ are not installed

from scripts.grids.keskar2017 import Case, Ranges, arms_of, kept_epochs, pairs_of
from scripts.measures.keskar2017 import along_training, slices, surfaces
from scripts.runner.study import Cell, Measurement, Study, Task, run_study
from sharpness.cli import run_command
from sharpness.config import BudgetConfig, DataConfig, MeasureConfig, ModelConfig, RunConfig, TrainingConfig
from sharpness.probes import (
    DistanceFromStart,
    FisherRaoNorm,
    Interpolation,
    KeskarMaximum,
    KeskarSharpness,
    PyHessianCheck,
    TopEigenvalues,
    Trace,
    WorstCaseSharpness,
)

BOXES: dict[str, Any] = {"epsilon": 1e-3, "second_epsilon": 5e-4}
"""Half widths of the paper's boxes."""

CURVATURES: dict[str, Any] = {
    "eigenvalues": TopEigenvalues(),
    "trace": Trace(rtol=0.15, num_hvps=40),
    "worst_case": WorstCaseSharpness(num_starts=1),
}
"""What the solutions of the first network are measured with beside Metric 2.1: the certified top eigenvalue, the sum of
all, and a worst case in units of the weights, which no rescaling that keeps the function moves. A second start of its
ascent ended within 0.1 % of the first on each of the twenty networks of the main job, so there is one."""

BESIDE: dict[str, Any] = {
    **{name: CURVATURES[name] for name in ("eigenvalues", "worst_case")},
    "fisher_rao_norm": FisherRaoNorm(),
}
"""The measures by which conditions are compared beside Metric 2.1: one more that a rescaling moves, two that it does
not."""


@dataclass(frozen=True)
class Preset:
    """The networks whose pairs are compared, the first of them in detail, and the one that things are varied on."""

    about: str
    seeds: int
    pairs: tuple[Case, ...]
    arms: Case | None
    """The network on which everything else is varied; without one the study ends after its first stage."""
    climb_pairs: bool = False
    """Whether the maximum is climbed until it stops growing on the networks of ``pairs`` too."""
    climb: KeskarMaximum = field(default_factory=lambda: KeskarMaximum(**BOXES))
    ranges: Ranges = field(default_factory=Ranges)
    compare: KeskarSharpness = field(default_factory=KeskarSharpness)
    """The sharpness by which everything but the pairs is compared."""
    curvatures: Mapping[str, Any] = field(default_factory=lambda: CURVATURES)
    """What the solutions of the first network are measured with beside Metric 2.1."""
    beside: Mapping[str, Any] = field(default_factory=dict)
    """What every run of the network of ``arms`` is measured with beside Metric 2.1, in the full space."""
    subspace: int = 100
    interpolation: Interpolation = field(default_factory=Interpolation)
    slice_points: int = 15
    surface_points: int = 21
    """Points along each side of the planes around the solutions of the first seed."""
    check_examples: int = 2000
    """The examples over which PyHessian checks the eigenvalue of the first seed."""


def base(name: str, data: str, *, epochs: int, **others: Any) -> RunConfig:
    """Return a run of a network on a dataset; ``others`` are fields of the data."""
    return RunConfig(
        data=DataConfig(name=data, **others), model=ModelConfig(name=name), training=TrainingConfig(epochs=epochs)
    )


TO_EQUAL_LOSS = RunConfig(
    data=DataConfig(num_train=2000, label_noise=0.2),
    model=ModelConfig(name="fc_256_256_256", norm="none"),
    training=TrainingConfig(epochs=1000),  # more than any run takes to reach the loss: 50 to 250
    budget=BudgetConfig(train_loss=0.01),
    measure=MeasureConfig(test_every=10.0),  # the test set is five times as large as the training set
)
NOISY = Case("MLP", TO_EQUAL_LOSS, small=32, large=500)
"""Where the gap can be resolved in minutes: three hidden layers of 256 without BatchNorm, a fifth of the labels random.

With so few and such labels what is learnt beyond the images' classes differs between the minima; LB is a quarter of the
data. Chosen on seeds that the study does not use. Both end at the first epoch whose weights have the loss asked for;
the loss of SB jumps up and down by then, so it ends in a quiet moment.
"""
CLEAN = Case("clean MLP", replace(TO_EQUAL_LOSS, data=DataConfig(num_train=2000)), small=32, large=500)
"""The same with the labels as they are, which leaves less to learn beyond the classes."""
CNN = Case("noisy CNN", replace(TO_EQUAL_LOSS, model=ModelConfig(name="strided_cnn", norm="none")), small=32, large=500)
"""A convolutional network on the same images and labels. LB takes some 230 epochs to the loss, SB 40."""
F1 = Case("F1", RunConfig(), small=64, large=1000)
"""The authors' F1 and optimiser on a sixth of Fashion-MNIST; LB is 10 % of the data, as in the paper."""
NARROW = base("f1_narrow", "fashion_mnist_10k", epochs=30, num_train=6000, num_validation=1000, num_test=2000)
"""F1 with hidden layers of 128 on half the data: the paper's network takes too long for many runs on two cores.

30 epochs as for F1, where the paper has 100 in its Figures 4 and 5.
"""
HALF_NOISY = replace(
    TO_EQUAL_LOSS,
    data=replace(TO_EQUAL_LOSS.data, num_train=1250, num_validation=250),
    training=TrainingConfig(epochs=300),
    measure=MeasureConfig(test_every=300.0),
)
"""The main job on half as many images, with others to tune on: what is varied there takes some thirty runs a seed.

Whatever is varied, a run ends at the same training loss, or after 300 epochs, which only those take that do not get
there: twice as many as LB itself.
"""
TRIAL = base("f1_small", "fashion_mnist_10k", epochs=2, num_train=250, num_validation=50, num_test=100)
HELD_OUT_C1 = base("c1", "cifar10", epochs=100, num_validation=5000, evaluation_batch_size=4500)
HELD_OUT_F2 = base("f2", "timit", epochs=100, num_validation=20000, evaluation_batch_size=70000)

PRESETS = {
    "cpu": Preset(
        about="MLP on 2,000 Fashion-MNIST images, a fifth of the labels random, 10 seeds, about 4 minutes on 2 cores.",
        seeds=10,
        pairs=(NOISY,),
        arms=None,
        curvatures={**CURVATURES, "trace": replace(CURVATURES["trace"], method="krylov")},  # shares its products
        interpolation=Interpolation(zoom=2),
    ),
    "full": Preset(
        about="F1, a clean MLP, a noisy CNN, a narrow F1 for all else, 5 seeds, under an hour on 2 cores.",
        seeds=5,
        pairs=(F1, CLEAN, CNN),
        arms=Case("narrow F1", NARROW, small=32, large=500),
        climb=KeskarMaximum(**BOXES, num_starts=1, num_gradients=150),
        interpolation=Interpolation(zoom=3),
    ),
    "headline": Preset(
        about="Does sharpness go with generalisation at one training loss? 34 runs a seed, 15 seeds, 50 minutes.",
        seeds=15,
        pairs=(),
        arms=Case("MLP", HALF_NOISY, small=32, large=250),
        climb=KeskarMaximum(**BOXES, num_starts=1, num_gradients=50),
        ranges=Ranges(
            batches=(0.5, 2.0, 4.0, 16.0),
            small_rates=(0.25, 0.5, 2.0, 4.0),  # up to LB's best
            kept=(10, 20, 40),
            label_noises=(0.0, 0.1, 0.4),
            sharp_starts=True,
        ),
        beside=BESIDE,
        interpolation=Interpolation(zoom=3),
        check_examples=1000,
    ),
    # The paper's networks, data and batches; 100 epochs as in its Figures 4 and 5, where its tables are trained until
    # the loss ceases to improve. Evaluation batches, whose statistics BatchNorm takes, are as large as the LB batch.
    "paper": Preset(
        about="F1 on MNIST, C1 and C2 on CIFAR-10, C3 and C4 on CIFAR-100, all else on C1, for a GPU; never run.",
        seeds=5,
        pairs=(
            Case("F1", base("f1", "mnist", epochs=100, evaluation_batch_size=6000), small=256, large=6000),
            Case("C1", base("c1", "cifar10", epochs=100, evaluation_batch_size=5000), small=256, large=5000),
            Case("C2", base("c2", "cifar10", epochs=100, evaluation_batch_size=5000), small=256, large=5000),
            Case("C3", base("c3", "cifar100", epochs=100, evaluation_batch_size=5000), small=256, large=5000),
            Case("C4", base("c4", "cifar100", epochs=100, evaluation_batch_size=5000), small=256, large=5000),
        ),
        arms=Case("C1, 5,000 held out", HELD_OUT_C1, small=256, large=4500),
        climb_pairs=True,
    ),
    # 72,000 is a tenth of the paper's frames. The numbers of frames are those of the user's file.
    "timit": Preset(
        about="F2 on your own features of TIMIT, which is licensed: --data-dir with timit.npz; never run.",
        seeds=5,
        pairs=(Case("F2", base("f2", "timit", epochs=100, evaluation_batch_size=72000), small=256, large=72000),),
        arms=Case("F2, 20,000 held out", HELD_OUT_F2, small=256, large=70000),
    ),
    "smoke": Preset(
        about="A trial, to see that everything works; its numbers mean nothing.",
        seeds=1,
        pairs=(),
        arms=Case("small F1", TRIAL, small=20, large=100),
        climb=KeskarMaximum(**BOXES, num_starts=1, num_gradients=4),
        ranges=Ranges(
            batches=(2.0,),
            warm_starts=2,
            checkpoints=2,
            small_rates=(),
            large_rates=(2.0,),
            label_noises=(0.4,),
            sharp_starts=True,
        ),
        beside={"fisher_rao_norm": FisherRaoNorm()},  # the cheapest of them
        compare=KeskarSharpness(subspace=5),  # SciPy takes a second to begin in the full space
        subspace=5,
        interpolation=Interpolation(num_points=7),
        slice_points=5,
        surface_points=3,
        check_examples=100,
    ),
}


def cells_of(preset: Preset, seeds: int) -> list[Cell]:
    """Return every run of the study once, the pairs first."""
    cells = [cell for case in preset.pairs for seed in range(seeds) for cell in pairs_of(case, seed)]
    if preset.arms is not None:
        cells += [cell for seed in range(seeds) for cell in arms_of(preset.arms, preset.ranges, seed)]
    return cells


def measurements(preset: Preset, cells: Sequence[Cell]) -> Iterator[Measurement | Task]:
    """Yield what the study measures on the runs that finished."""
    solutions = [cell for cell in cells if cell.labels["arm"] == "base"]
    first = [cell for cell in solutions if cell.labels["network"] == cells[0].labels["network"]]
    for cell in first:
        yield Measurement(f"curvature, {cell.name}", cell, preset.curvatures)
    for cell in cells:
        probes = {"keskar": _published(preset, cell), "distance": DistanceFromStart()}
        if preset.arms is not None and cell.labels["network"] == preset.arms.label:
            asked = preset.curvatures if cell in first else {}
            probes |= {name: probe for name, probe in preset.beside.items() if name not in asked}
        yield Measurement(f"Keskar sharpness, {cell.name}", cell, probes)
    for small, large in _pairs(solutions):
        yield from _between(preset, small, large)
    for cell in first:
        if cell.labels["seed"] == 0:
            probes = {"pyhessian": PyHessianCheck()}
            yield Measurement(f"PyHessian check, {cell.name}", cell, probes, num_examples=preset.check_examples)
    if preset.arms is not None:
        for cell in solutions:
            yield from _beyond_the_first_stage(preset, preset.arms, cell)


def _published(preset: Preset, cell: Cell) -> KeskarSharpness:
    """Return Metric 2.1 as published: in the full space for pairs, in both boxes where the paper's tables are made."""
    if preset.arms is None:
        return KeskarSharpness()
    return KeskarSharpness(**BOXES) if cell.labels["arm"] == "base" else preset.compare


def _pairs(solutions: Sequence[Cell]) -> Iterator[tuple[Cell, Cell]]:
    """Yield SB and LB of each network and seed."""
    large = {(cell.labels["network"], cell.labels["seed"]): cell for cell in solutions if cell.labels["role"] == "LB"}
    for cell in solutions:
        if cell.labels["role"] == "SB":
            yield cell, large[cell.labels["network"], cell.labels["seed"]]


def _between(preset: Preset, small: Cell, large: Cell) -> Iterator[Measurement | Task]:
    labels = {"network": small.labels["network"], "seed": small.labels["seed"]}
    for path in ("line",) if preset.arms is None else ("line", "arc"):
        probes = {"interpolation": replace(preset.interpolation, path=path)}
        name = f"{path} SB to LB, {labels['network']}, seed {labels['seed']}"
        yield Measurement(name, small, probes, other=large)
    if preset.arms is not None:
        yield Task("slices", labels, slices, [small, large], {"num_points": preset.slice_points})
        if labels["seed"] == 0:
            yield Task("surfaces", labels, surfaces, [small, large], {"num_points": preset.surface_points})


def _beyond_the_first_stage(preset: Preset, arms: Case, cell: Cell) -> Iterator[Measurement | Task]:
    """Yield sharpness of a solution in random dimensions, climbed, and along the training that led to it."""
    p, name, varied = preset.subspace, cell.name, cell.labels["network"] == arms.label
    yield Measurement(f"in {p} dimensions, {name}", cell, {"keskar": KeskarSharpness(**BOXES, subspace=p)})
    if preset.climb_pairs or varied:
        yield Measurement(f"climbed, {name}", cell, {"keskar_maximum": preset.climb})
        probes = {"keskar_maximum": replace(preset.climb, subspace=p)}
        yield Measurement(f"climbed in {p} dimensions, {name}", cell, probes)
    if varied:
        epochs = kept_epochs(arms, preset.ranges, preset.ranges.checkpoints)
        knobs = {"epochs": epochs, "subspace": preset.compare.subspace}
        yield Task("along_training", cell.labels, along_training, [cell], knobs)


STUDY = Study(
    name="keskar2017",
    title="Keskar et al. 2017",
    about=__doc__ or "",
    presets=PRESETS,
    cells=cells_of,
    measurements=measurements,
)

if __name__ == "__main__":
    run_command(lambda: run_study(STUDY))
