"""The cost of the tracker where 5 % were asked for, against the same training without it.

Two trainings of one network from the same weights on the same batches, one of them tracked, take turns of a few
updates; a round is so many turns that the tracker comes to measure about every quantity in it. The overhead is the
seconds of the tracked turns over those of the others, less 1, by the wall and by the processor time of the process,
which other work on the machine disturbs less. At the end both networks must have the same bits.

To begin: --networks smith_le --examples 200 --updates 500 takes half a minute. Each row is kept as it finishes, in a
process of its own, so the same command goes on after a stop of any kind.
"""

# python scripts/benchmarks/tracker.py
# About 15 minutes on one core.

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # scripts/ is not installed

import matplotlib as mpl
import torch
import tyro
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from scripts.benchmarks.networks import token_batches
from scripts.benchmarks.report import Part, frame_of, lines_of, provenance_of, write_report
from scripts.benchmarks.rows import Benchmark, Job, Row, SharedOptions
from sharpness.config import ModelConfig
from sharpness.data import load_dataset, normalise
from sharpness.errors import InputError, unknown_name
from sharpness.models import MODELS, build_model
from sharpness.plots.save import save_figure
from sharpness.plots.style import COLUMN, LOOKS, STYLE, new_figure
from sharpness.training.tracker import QUANTITIES, Tracker
from sharpness.vectors import flatten

ASKED = 0.05
BATCH, LENGTH, CHARACTERS = 16, 32, 96
ROUNDS, UPDATES, TURN = 5, 4000, 20
"""Rounds and updates in all, and updates of one turn."""


@dataclass(frozen=True, kw_only=True)
class Options(SharedOptions):
    """Measure what is missing, then render the tables and the figure."""

    networks: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = ("f1", "resnet8", "char_transformer")
    """Names of `sharpness models`."""
    updates: Annotated[int, tyro.conf.arg(metavar="N")] = UPDATES
    """Updates of each training; fewer for a trial, in which the tracker hardly comes to measure."""
    threads: Annotated[int, tyro.conf.arg(metavar="N")] = 1
    """CPU threads of every process."""
    runs: tyro.conf.Suppress[Path] = Path("runs")  # no trained network is read
    figures: Path = Path("figures/benchmark_tracker")

    def check(self) -> None:
        """Raise :class:`InputError` for what would fail later."""
        super().check()
        for network in self.networks:
            if network not in MODELS:
                raise unknown_name("model", network, MODELS)
        if self.examples < BATCH or self.updates < ROUNDS * TURN or not self.networks:
            raise InputError(
                f"expected at least {BATCH} examples, {ROUNDS * TURN} updates and a network, got {self.examples}, "
                f"{self.updates} and {len(self.networks)}"
            )

    def jobs(self) -> Iterator[Job]:
        """Yield the jobs, each of which adds a row."""
        for network in self.networks:
            yield Job("overhead", network, f"{self.updates} updates", self.examples, self.threads)


# What one process measures.


class Training:
    """Adam on the next of some batches that come round, with a tracker or without."""

    def __init__(self, job: Job, tracked: bool) -> None:
        text = job.network == "char_transformer"
        norm: Any = MODELS[job.network].norms[0]
        shape, classes = ((1, 1, LENGTH), CHARACTERS) if text else ((1, 28, 28), 10)
        self.model = build_model(ModelConfig(name=job.network, norm=norm), shape, classes, 0).train()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3)
        self.batches = itertools.cycle(windows(job.examples) if text else images(job.examples))
        self.tracker = Tracker(self.model, cross_entropy, self.optimizer, overhead=ASKED, sink=None)
        self.step: Callable[..., object] = self.tracker.step if tracked else lambda *_: None

    def __call__(self, count: int) -> tuple[float, float]:
        """Make so many updates, and return the seconds that passed and those of the processor."""
        self.tracker.clock.resume()  # after the turn of the other one
        began, used = time.perf_counter(), time.process_time()
        for inputs, targets in itertools.islice(self.batches, count):
            loss = cross_entropy(self.model(inputs), targets)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.step(inputs, targets)
        return time.perf_counter() - began, time.process_time() - used


def images(examples: int) -> list[tuple[Tensor, Tensor]]:
    """Return batches of Fashion-MNIST."""
    train = load_dataset("fashion_mnist_10k", num_train=examples).train
    inputs = normalise(train.inputs).split(BATCH)
    return list(zip(inputs, train.targets.split(BATCH), strict=True))[: examples // BATCH]


def windows(examples: int) -> list[tuple[Tensor, Tensor]]:
    """Return batches of made texts, each character with the one that follows."""
    batches = token_batches(max(1, examples // BATCH), BATCH, LENGTH + 1, CHARACTERS)
    tokens = [batch["input_ids"] for batch in batches]
    return [(each[:, None, None, :-1].float() / 255, each[:, 1:]) for each in tokens]


def overhead(job: Job) -> Row:
    """Return the seconds of each round without and with the tracker, and what each quantity took."""
    bare, tracked = Training(job, False), Training(job, True)
    turns = int(job.tool.removesuffix(" updates")) // (ROUNDS * TURN)
    rounds = [_round(bare, tracked, turns) for _ in range(ROUNDS)]
    rows, clock = tracked.tracker.rows, tracked.tracker.clock
    names = ("without (s)", "with (s)", "without, processor (s)", "with, processor (s)")
    seconds = {name: [each[i] for each in rounds] for i, name in enumerate(names)}
    return seconds | {
        "batch": BATCH,
        "step (ms)": 1e3 * sum(seconds["without, processor (s)"]) / (ROUNDS * turns * TURN),
        "updates": clock.calls,
        "its own account (%)": 100 * clock.spent / clock.trained,
        "measurements": len(rows),
        "load": os.getloadavg()[2],
        "processors": os.cpu_count(),
        "same bits": all(map(torch.equal, _state(bare.model), _state(tracked.model))),
        "quantities": [_took(name, rows) for name in QUANTITIES],
    }


def _round(bare: Training, tracked: Training, turns: int) -> tuple[float, float, float, float]:
    """Return the wall seconds without and with the tracker of a number of turns, and those of the processor."""
    pairs = [(bare(TURN), tracked(TURN)) for _ in range(turns)]
    walls, used = ([sum(pair[which][kind] for pair in pairs) for which in range(2)] for kind in range(2))
    return walls[0], walls[1], used[0], used[1]


def _state(model: nn.Module) -> list[Tensor]:
    return [flatten(model), *model.buffers()]


def _took(name: str, rows: Sequence[Row]) -> Row:
    """Return how often a quantity was measured, on how many examples, and how many training steps that took."""
    own = [row for row in rows if name in row]
    steps = [row["seconds"] / row["step_seconds"] for row in own]
    gaps = [after["step"] - before["step"] for before, after in itertools.pairwise(own)]
    return {
        "quantity": name,
        "times": len(own),
        "of examples": own[-1]["examples"] if own else None,
        "takes (steps)": steps or None,
        "every (steps)": median(gaps) if gaps else None,
    }


def measure(job: Job, runs: Path) -> Row:
    """Return the numbers of one job."""
    return overhead(job)


# The report.


PARTS = {
    "overhead": Part(
        measure,
        f"The overhead of a tracker that was asked for {100 * ASKED:g} %",
        f"Two trainings with Adam, batches of {BATCH}, in turns of {TURN} updates: the seconds of all tracked turns "
        f"over those of the others, less 1, and in brackets those of {ROUNDS} rounds. Its own account is what the "
        "tracker's log says. Step: processor time of an update without it. Load: processes of the whole machine that "
        "wanted to run, over the last quarter of an hour; where they are more than the processors, the processor time "
        "of this process is the better number.",
        "network | step (ms) | updates | overhead, processor (%) | overhead, wall (%) | its own account (%) | "
        "measurements | same bits | load | processors",
    ),
    "quantities": Part(
        measure,
        "What each quantity takes, in training steps",
        "Of the last measurements the number of examples, of all the median and extremes of the cost; the first solve "
        "of an eigenvalue starts at random.",
        "network | quantity | times | of examples | takes (steps) | every (steps)",
    ),
}


def render(rows: Sequence[Row], out: Path) -> list[Path]:
    """Write the tables of all rows, and the figure of overheads."""
    lines = {"overhead": [line | _overheads(line) for line in lines_of(rows, "overhead")]}
    lines["quantities"] = [row | each for row in lines["overhead"] for each in row.get("quantities", [])]
    provenance = provenance_of(rows, rounds=ROUNDS, turn=TURN, asked=ASKED)
    files = write_report("Tracker benchmark", PARTS, lines, provenance, out)
    return files + _draw([line for line in lines["overhead"] if "with (s)" in line], out, provenance)


def _overheads(line: Row) -> Row:
    """Return the overhead over all rounds with the extremes of the rounds, as a table shows it."""
    if "with (s)" not in line:
        return {}
    shown: Row = {}
    for name, more in (("wall", ""), ("processor", ", processor")):
        rounds, whole = _percent(line, more), 100 * (sum(line[f"with{more} (s)"]) / sum(line[f"without{more} (s)"]) - 1)
        shown[f"overhead, {name} (%)"] = f"{whole:.1f} ({min(rounds):.1f} to {max(rounds):.1f})"
    return shown


def _percent(line: Row, more: str) -> list[float]:
    """Return the overhead of each round, by the wall or ``, processor`` time."""
    pairs = zip(line[f"without{more} (s)"], line[f"with{more} (s)"], strict=True)
    return [100 * (after / before - 1) for before, after in pairs]


WANTED = (3.0, 7.0)
"""Where the overhead is to lie, in per cent."""
CAPTION = (
    f"Overhead of a tracker that was asked for {100 * ASKED:g} % (dashed), against the same training without it in "
    f"turns: small marks are rounds, large ones all {ROUNDS} rounds together; batches of {BATCH}, Adam. Shaded: "
    f"{WANTED[0]:g} to {WANTED[1]:g} %."
)


def _draw(lines: Sequence[Row], out: Path, provenance: Row) -> list[Path]:
    """Draw the overhead of every round and of all together, by processor and by wall time."""
    if not lines:
        return []
    kinds = {"processor (%)": ", processor", "wall (%)": ""}
    table = frame_of(
        [
            {"network": line["network"], "round": number}
            | {name: _percent(line, more)[number - 1] for name, more in kinds.items()}
            for line in lines
            for number in range(1, ROUNDS + 1)
        ]
    )
    networks = list(dict.fromkeys(table["network"]))
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(COLUMN, 2.2)
        ax = axes.flat[0]
        ax.axhspan(*WANTED, color="0.92", zorder=0)
        ax.axhline(100 * ASKED, color="0.4", linewidth=0.8, linestyle="--", zorder=1)
        for aside, look, (kind, more) in zip((-0.15, 0.15), LOOKS, kinds.items(), strict=False):
            style = {"color": look.color, "marker": look.marker, "linestyle": ""}
            places = [networks.index(name) + aside for name in table["network"]]
            ax.plot(places, table[kind], markersize=2.5, alpha=0.6, **style)
            wholes = [100 * (sum(x[f"with{more} (s)"]) / sum(x[f"without{more} (s)"]) - 1) for x in lines]
            label = f"{kind.removesuffix(' (%)').capitalize()} time"
            ax.plot([i + aside for i in range(len(networks))], wholes, markersize=6, label=label, **style)
        ax.set_xticks(range(len(networks)), [name.replace("_", " ") for name in networks])
        ax.set(ylabel="Overhead (%)", xlim=(-0.5, len(networks) - 0.5))
        lowest = min(*table["wall (%)"], *table["processor (%)"])
        ax.set_ylim(bottom=0.0 if lowest >= 0 else lowest - 0.5, top=None)
        ax.legend(loc="best")
        return save_figure(figure, table, out, "overhead", CAPTION, provenance)


BENCHMARK = Benchmark(__file__, __doc__, Options, measure, render)
if __name__ == "__main__":
    BENCHMARK.main()
