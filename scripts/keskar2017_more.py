"""The rest of Keskar et al. 2017 (arXiv 1609.04836), and what its critics ask for.

``scripts/keskar2017.py`` trains the pairs of small and large batch (SB, LB). This script takes them further:

- Tables 2 to 4: accuracies, and sharpness in the full space and in 100 random dimensions, in both boxes, as published
  and climbed until it stops growing; how far each solution lies from where it started;
- Figures 1 to 7: a sketch of a flat and a sharp minimum from measured curves, training curves, the line and the arc
  between the solutions, batch size, warm starts of LB from SB, sharpness along training;
- Appendix E: augmentation, conservative training, robust training (as SAM), and batches that grow;
- the critics: learning rates tuned on held-out data, scaled linearly and by the square root, equal updates, and equal
  training loss.

F2 of the paper needs TIMIT, which is licensed and not here: it was not run. Give your own features as timit.npz
(arrays train_inputs and test_inputs of frames x 360 floats, train_targets and test_targets of class numbers 0 to 1972)
in a folder and run ``--preset timit --data-dir FOLDER``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]  # analysis/ and study.py are not part of the installed package

from keskar2017_arms import Case, Grid, arms_of, pairs_of, spaced
from measures.keskar2017 import along_training, slices
from study import Cell, Measurement, Study, Task, run_study

from sharpness.cli import run_command
from sharpness.config import DataConfig, ModelConfig, RunConfig, TrainingConfig
from sharpness.probes import DistanceFromStart, Interpolation, KeskarMaximum, KeskarSharpness

BOXES: dict[str, Any] = {"epsilon": 1e-3, "second_epsilon": 5e-4}
"""Half widths of the paper's boxes."""


@dataclass(frozen=True)
class Preset:
    """Networks whose pairs are compared (``pairs``), the one on which everything else is varied, and how it is."""

    about: str
    seeds: int
    pairs: tuple[Case, ...]
    arms: Case
    climb_pairs: bool
    """Whether the maximum is climbed until it stops growing on the networks of ``pairs`` too."""
    climb: KeskarMaximum
    grid: Grid = field(default_factory=Grid)
    compare: KeskarSharpness = field(default_factory=KeskarSharpness)
    """The sharpness by which everything but the pairs is compared."""
    subspace: int = 100
    interpolation: Interpolation = field(default_factory=Interpolation)
    slice_points: int = 15


def base(name: str, data: str, *, epochs: int, **others: Any) -> RunConfig:
    """Return a run of a network on a dataset; ``others`` are fields of the data."""
    return RunConfig(
        data=DataConfig(name=data, **others), model=ModelConfig(name=name), training=TrainingConfig(epochs=epochs)
    )


NARROW = base("f1_narrow", "fashion_mnist_10k", epochs=30, num_train=6000, num_validation=1000, num_test=2000)
"""F1 with hidden layers of 128 on half the data: the paper's network takes too long for many runs on two cores.

30 epochs as in ``keskar2017.py``, where the paper has 100 in its Figures 4 and 5.
"""
TRIAL = base("f1_narrow", "fashion_mnist_10k", epochs=2, num_train=250, num_validation=50, num_test=100)
HELD_OUT_C1 = base("c1", "cifar10", epochs=100, num_validation=5000, evaluation_batch_size=4500)
HELD_OUT_F2 = base("f2", "timit", epochs=100, num_validation=20000, evaluation_batch_size=70000)

PRESETS = {
    "cpu": Preset(
        "F1 on 10,000 Fashion-MNIST images, a narrow F1 on 5,000 for all else, 5 seeds, about 20 minutes on 2 cores.",
        5,
        (Case("F1", RunConfig(), 64, 1000),),
        Case("narrow F1", NARROW, 32, 500),
        climb_pairs=False,
        climb=KeskarMaximum(**BOXES, num_starts=1, num_gradients=150),
    ),
    # The paper's networks, data and batches; 100 epochs as in its Figures 4 and 5, where its tables are trained until
    # the loss ceases to improve. Evaluation batches, whose statistics BatchNorm takes, are as large as the LB batch.
    "paper": Preset(
        "F1 on MNIST, C1 and C2 on CIFAR-10, C3 and C4 on CIFAR-100, all else on C1, for a GPU; never run.",
        5,
        (
            Case("F1", base("f1", "mnist", epochs=100, evaluation_batch_size=6000), 256, 6000),
            Case("C1", base("c1", "cifar10", epochs=100, evaluation_batch_size=5000), 256, 5000),
            Case("C2", base("c2", "cifar10", epochs=100, evaluation_batch_size=5000), 256, 5000),
            Case("C3", base("c3", "cifar100", epochs=100, evaluation_batch_size=5000), 256, 5000),
            Case("C4", base("c4", "cifar100", epochs=100, evaluation_batch_size=5000), 256, 5000),
        ),
        Case("C1, 5,000 held out", HELD_OUT_C1, 256, 4500),
        climb_pairs=True,
        climb=KeskarMaximum(**BOXES),
    ),
    # 72,000 is a tenth of the paper's frames. The numbers of frames are those of the user's file.
    "timit": Preset(
        "F2 on your own features of TIMIT, which is licensed: --data-dir with timit.npz; never run.",
        5,
        (Case("F2", base("f2", "timit", epochs=100, evaluation_batch_size=72000), 256, 72000),),
        Case("F2, 20,000 held out", HELD_OUT_F2, 256, 70000),
        climb_pairs=False,
        climb=KeskarMaximum(**BOXES),
    ),
    "smoke": Preset(
        "A trial, to see that everything works; its numbers mean nothing.",
        1,
        (),
        Case("narrow F1", TRIAL, 20, 100),
        climb_pairs=False,
        climb=KeskarMaximum(**BOXES, num_starts=1, num_gradients=4),
        grid=Grid((2.0,), 2, 2, (), (2.0,)),
        compare=KeskarSharpness(subspace=5),  # SciPy takes a second to begin in the full space
        subspace=5,
        interpolation=Interpolation(num_points=7),
        slice_points=5,
    ),
}


def cells_of(preset: Preset, seeds: int) -> list[Cell]:
    """Return every run of the study once, the pairs first."""
    cells = [cell for case in preset.pairs for seed in range(seeds) for cell in pairs_of(case, seed)]
    return cells + [cell for seed in range(seeds) for cell in arms_of(preset.arms, preset.grid, seed)]


def measurements(preset: Preset, cells: Sequence[Cell]) -> Iterator[Measurement | Task]:
    """Yield what the study measures on the runs that finished."""
    solutions = {key: cell for cell in cells if (key := _solution(cell)) is not None}
    for cell in cells:
        probes = {"keskar": preset.compare, "distance": DistanceFromStart()}
        if _solution(cell) is not None:
            probes["keskar"] = KeskarSharpness(**BOXES)
            yield from _in_subspace(preset, cell)
        yield Measurement(f"sharpness, {cell.name}", cell, probes)
    for (network, role, seed), cell in solutions.items():
        if role == "SB" and (large := solutions.get((network, "LB", seed))) is not None:
            yield from _between(preset, cell, large)
    for (network, _, _), cell in solutions.items():
        if network == preset.arms.label:
            epochs = spaced(cell.config.training.epochs, preset.grid.checkpoints)
            knobs = {"epochs": epochs, "subspace": preset.compare.subspace}
            yield Task("along_training", cell.labels, along_training, [cell], knobs)


def _in_subspace(preset: Preset, cell: Cell) -> Iterator[Measurement]:
    p, name = preset.subspace, cell.name
    yield Measurement(f"in {p} dimensions, {name}", cell, {"keskar": KeskarSharpness(**BOXES, subspace=p)})
    if preset.climb_pairs or cell.labels["network"] == preset.arms.label:
        yield Measurement(f"climbed, {name}", cell, {"keskar_maximum": preset.climb})
        probes = {"keskar_maximum": replace(preset.climb, subspace=p)}
        yield Measurement(f"climbed in {p} dimensions, {name}", cell, probes)


def _between(preset: Preset, small: Cell, large: Cell) -> Iterator[Measurement | Task]:
    network, seed = small.labels["network"], small.labels["seed"]
    for path in ("line", "arc"):
        probes = {"interpolation": replace(preset.interpolation, path=path)}
        yield Measurement(f"{path} SB to LB, {network}, seed {seed}", small, probes, other=large)
    labels = {"network": network, "seed": seed}
    yield Task("slices", labels, slices, [small, large], {"num_points": preset.slice_points})


def _solution(cell: Cell) -> tuple[str, str, int] | None:
    """Return network, role and seed of a run of a pair; ``None`` for the others."""
    labels = cell.labels
    return (labels["network"], labels["role"], labels["seed"]) if labels["arm"] == "base" else None


STUDY = Study(
    name="keskar2017_more",
    title="Keskar et al. 2017, the rest",
    about=__doc__ or "",
    presets=PRESETS,
    cells=cells_of,
    measurements=measurements,
    analysis="analysis.keskar2017.report",
    shares="keskar2017",
)

if __name__ == "__main__":
    run_command(lambda: run_study(STUDY))
