"""Sharp minima can generalise: the rescaling T_alpha of Dinh et al. 2017 (arXiv 1703.04933) on trained networks.

T_alpha multiplies one layer of a ReLU network by alpha and the next by 1 / alpha, and the network computes the same.
Small- and large-batch networks are measured before and after, over a range of alpha: which measures move, which do not,
whether the Hessian moves as the theory says, and whether the order of the two networks can be turned round. The same
for a layer before BatchNorm, which undoes the factor itself. Tested are: outputs equal; the top eigenvalue on its
bound, with slopes -2 and +2 in log-log; the trace as its blocks say; Keskar's box moves; the box in proportion to the
weights, relative flatness and the Fisher-Rao norm do not. Theorem 2, that the region around a minimum where the loss
stays low has no bound, is tested on ``y = w2 relu(w1 x)``, whose region has an area in closed form.

What to expect, on two CPU cores:

- cpu: about 13 minutes. All 15 claims are reproduced.
- smoke: seconds; its numbers mean nothing.
- paper: for a GPU; never run.

Every stage skips what is already there, so the same command goes on after a stop of any kind.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # analysis/ and scripts/ are not installed

from scripts.measures.dinh2017 import blocks, constant_network, measures, probes_of, two_weights
from scripts.runner.study import Cell, Study, Task, run_study
from sharpness.cli import run_command
from sharpness.config import DataConfig, ModelConfig, RunConfig, TrainingConfig

BOX = "keskar_box"
MLP, NORMED = "ReLU network", "BatchNorm network"


@dataclass(frozen=True)
class Arm:
    """One kind of network: how it is trained, the kind of its rescaling, and over which alphas.

    ``box_alphas`` are those of Keskar's box, whose search takes as long as all other measures together.
    """

    model: ModelConfig
    kind: str
    alphas: tuple[float, ...]
    box_alphas: tuple[float, ...]


@dataclass(frozen=True)
class Preset:
    """The kinds of network by name, the two batch sizes, and on how much they are measured."""

    about: str
    seeds: int
    base: RunConfig
    small_batch: int
    large_batch: int
    arms: dict[str, Arm]
    examples: int
    products: int
    epsilon: float


# Powers of two rescale without rounding.
WIDE, ENDS = (1 / 64, 1 / 16, 1 / 4, 4.0, 16.0, 64.0), (1 / 16, 16.0)
# A region in which the loss may rise by a twentieth of the way to the constant network, on the images of each run.
RISE, RADII, DRAWS = 0.05, (2.0, 4.0, 8.0, 16.0, 32.0, 64.0), 2**19
PLAIN, RUNNING = ModelConfig(name="smith_le", norm="none"), ModelConfig(name="f1", norm="running")

PRESETS = {
    # One hidden layer of 800 (two layers of weights, as in the paper's proofs) and Keskar et al.'s F1 with running
    # statistics, by their optimiser (Adam) and their share of the data in a large batch (10 %).
    "cpu": Preset(
        "2,000 Fashion-MNIST images, one hidden layer of 800 and F1 with BatchNorm, 5 seeds, batches 32 and 200, "
        "measured on 100 images, about 13 minutes on 2 cores.",
        seeds=5,
        base=RunConfig(data=DataConfig(num_train=2000, num_test=2000), training=TrainingConfig(epochs=30)),
        small_batch=32,
        large_batch=200,
        arms={MLP: Arm(PLAIN, "pair", WIDE, ENDS), NORMED: Arm(RUNNING, "norm", WIDE, ENDS)},
        examples=100,
        products=40,
        epsilon=0.05,
    ),
    # The paper is theory; these are the networks of Keskar et al., whose sharp minima it speaks of: F1 with and without
    # BatchNorm on MNIST, with their batch sizes. It has not been run.
    "paper": Preset(
        "MNIST, F1 without and with BatchNorm, batches 256 and 6000, measured on 6,000 images, for a GPU; never run.",
        seeds=5,
        base=RunConfig(data=DataConfig(name="mnist"), training=TrainingConfig(epochs=100)),
        small_batch=256,
        large_batch=6000,
        arms={
            MLP: Arm(ModelConfig(name="f1", norm="none"), "pair", WIDE, WIDE),
            NORMED: Arm(RUNNING, "norm", WIDE, WIDE),
        },
        examples=6000,
        products=320,
        epsilon=0.05,
    ),
    "smoke": Preset(
        "A trial, to see that everything works; its numbers mean nothing.",
        seeds=1,
        base=RunConfig(data=DataConfig(num_train=200, num_test=100), training=TrainingConfig(epochs=1)),
        small_batch=20,
        large_batch=100,
        arms={MLP: Arm(ModelConfig(name="f1_small", norm="none"), "pair", (1 / 4, 4.0), (4.0,))},
        examples=50,
        products=20,
        epsilon=0.05,
    ),
}


def cells_of(preset: Preset, seeds: int) -> list[Cell]:
    """Return small- and large-batch runs of every kind of network, those of one seed from the same initial weights."""
    cells = []
    for name, arm in preset.arms.items():
        for role, batch_size in (("SB", preset.small_batch), ("LB", preset.large_batch)):
            for seed in range(seeds):
                training = replace(preset.base.training, batch_size=batch_size, seed=seed)
                config = replace(preset.base, model=arm.model, training=training)
                cells.append(Cell({"network": name, "role": role, "seed": seed}, config))
    return cells


def measurements(preset: Preset, cells: Sequence[Cell]) -> Iterator[Task]:
    """Yield the tasks of every run, the long ones first."""
    for cell in cells:
        arm = preset.arms[cell.labels["network"]]
        knobs = {"kind": arm.kind, "examples": preset.examples, "products": preset.products}
        names = [name for name in probes_of(preset.products) if name != BOX]
        for some, alphas in (([BOX], arm.box_alphas), (names, arm.alphas)):
            yield Task("measures", cell.labels, measures, [cell], {**knobs, "names": some, "alphas": list(alphas)})
        yield Task("blocks", cell.labels, blocks, [cell], knobs)
        if arm.kind == "pair":
            ball = {"epsilon": preset.epsilon, "examples": preset.examples}
            yield Task("constant_network", cell.labels, constant_network, [cell], ball)
        if arm.kind == "pair" and cell.labels["role"] == "SB":  # an LB run has the same images
            area = {"examples": preset.examples, "rise": RISE, "radii": list(RADII), "draws": DRAWS}
            yield Task("two_weights", cell.labels, two_weights, [cell], area)


STUDY = Study(
    name="dinh2017",
    title="Dinh et al. 2017",
    about=__doc__ or "",
    presets=PRESETS,
    cells=cells_of,
    measurements=measurements,
)

if __name__ == "__main__":
    run_command(lambda: run_study(STUDY))
