"""The parts of a study: runs with their labels, what is measured on them, presets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from analysis.report.places import analysis_of
from sharpness.config import RunConfig

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Cell:
    """One run of the grid: the labels of its rows in every table, and what it is."""

    labels: Mapping[str, Any]
    config: RunConfig
    after: Cell | None = None
    """The run whose weights it starts from (``training.start``): trained first; without it there is none of this."""

    @property
    def name(self) -> str:
        """The name in progress lines: ``LB, seed 0``."""
        parts = (value if isinstance(value, str) else f"{key} {value}" for key, value in self.labels.items())
        return ", ".join(part for part in parts if part)

    @property
    def wave(self) -> int:
        """The number of runs that come before it, one after the other."""
        return 0 if self.after is None else self.after.wave + 1


def one_run_per_seed(preset: Any, seeds: int) -> list[Cell]:
    """Return a run of the preset's ``base`` for each seed: the grid of a study that varies nothing else by runs."""
    trainings = [replace(preset.base.training, seed=seed) for seed in range(seeds)]
    return [Cell({"seed": each.seed}, replace(preset.base, training=each)) for each in trainings]


@dataclass(frozen=True)
class Measurement:
    """Probes of the final weights of one run, of what lies between it and another, or on a subset of the examples."""

    label: str
    cell: Cell
    probes: Mapping[str, Any]
    other: Cell | None = None
    num_examples: int | None = None


@dataclass(frozen=True)
class Task:
    """A measurement of a study's own: ``function(site, **knobs)`` returns rows; see :class:`scripts.runner.site.Site`.

    They are kept under ``measured/<name>/`` beside the runs, with what they were measured on, and are a table of that
    name for the rendering, ``labels`` in every row. ``knobs`` are plain values; they, the labels and the runs are its
    identity.
    """

    name: str
    labels: Mapping[str, Any]
    function: Callable[..., Rows]
    cells: Sequence[Cell]
    knobs: Mapping[str, Any] = field(default_factory=dict)


class Preset(Protocol):
    """One size of a study; what else it holds is the study's own."""

    @property
    def seeds(self) -> int:
        """The number of seeds by default."""
        ...

    @property
    def about(self) -> str:
        """The text of ``--help``: data, sizes, how long it takes, whether it was run."""
        ...


@dataclass(frozen=True)
class Study:
    """Everything that a script says of its study; ``--help`` shows ``about``.

    ``cells(preset, seeds)`` is the grid and ``measurements(preset, cells)`` what is measured on the runs that finished.
    """

    name: str
    title: str
    about: str
    presets: Mapping[str, Preset]
    cells: Callable[[Any, int], Sequence[Cell]]
    measurements: Callable[[Any, Sequence[Cell]], Iterable[Measurement | Task]] = lambda preset, cells: ()

    @property
    def analysis(self) -> str:
        """The module whose ``report(tables, settings)`` makes a Report of the runs' Tables and the preset's fields."""
        return f"{analysis_of(self.name)}.report"
