"""Small batch against large batch: Keskar et al. 2017 (arXiv 1609.04836) in small.

Trains pairs of networks that differ in the batch size alone, measures how sharp their minima are and what lies between
them, and renders the figures and the table. Every stage skips what is already there, so the same command goes on
after a stop of any kind.
"""

from __future__ import annotations

import importlib
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]  # analysis/ and study.py are not part of the installed package

import tyro
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from study import Job, Workers, available_cores

from sharpness.checkpoints.run_folders import load_run_data
from sharpness.cli import run_command
from sharpness.config import DataConfig, ModelConfig, RunConfig, TrainingConfig
from sharpness.environment import choose_device
from sharpness.errors import InputError, unknown_name
from sharpness.probes import DistanceFromStart, Interpolation, KeskarSharpness, PyHessianCheck, TopEigenvalues
from sharpness.probes.run_folders import missing_probes, probe_run
from sharpness.runs import RunFolder
from sharpness.training import check_config, train


@dataclass(frozen=True)
class Preset:
    """One size of the study: the run that all cells share, and the two batch sizes."""

    base: RunConfig
    small_batch: int
    large_batch: int
    seeds: int
    check_examples: int
    interpolation: Interpolation


PRESETS = {
    # The authors' F1 and optimiser on a sixth of Fashion-MNIST; the large batch is 10 % of the data, as in the paper.
    "cpu": Preset(RunConfig(), 64, 1000, 2, 2000, Interpolation()),
    # F1 on MNIST with the paper's batch sizes and number of trials; trained for 100 epochs where the paper trains until
    # the loss ceases to improve. Needs the MNIST files and, to finish in an hour, a GPU. It has not been run.
    "paper": Preset(
        RunConfig(
            data=DataConfig(name="mnist", evaluation_batch_size=6000),
            model=ModelConfig(name="f1"),
            training=TrainingConfig(epochs=100),
        ),
        *(256, 6000, 5, 2000),
        Interpolation(),
    ),
    # A minute's worth, to see that everything works; its numbers mean nothing.
    "smoke": Preset(
        RunConfig(
            data=DataConfig(num_train=600, num_test=400, evaluation_batch_size=300), training=TrainingConfig(epochs=2)
        ),
        *(50, 300, 2, 200),
        Interpolation(num_points=7),
    ),
}


@dataclass(frozen=True)
class Cell:
    """One run of the study: SB or LB, its seed, where it lies and what it is."""

    role: str
    seed: int
    folder: Path
    config: RunConfig


@dataclass(frozen=True)
class Options:
    """Reproduce Keskar et al. 2017 in small: train, probe, render."""

    preset: str = "cpu"
    """cpu: 10,000 Fashion-MNIST images, batches 64, 1000. paper: MNIST, 256, 6000 (never run). smoke: a trial."""
    seeds: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Number of pairs of networks; by default the preset's own. Five give error bars that mean something."""
    stage: Literal["train", "probe", "render", "all"] = "all"
    """What to do; every stage needs those before it."""
    runs: Path = Path("runs/keskar2017")
    """Folder of the run folders."""
    figures: Path = Path("figures/keskar2017")
    """Folder for the figures; they go to <preset>-<seeds>-seeds inside it."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""
    data_dir: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """A folder that holds the data files, looked at first."""
    workers: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Number of processes; by default one per CPU core, or one in all on a GPU."""


def cells_of(preset: Preset, seeds: int, runs: Path) -> list[Cell]:
    """Return the cells of the study, small batches first because they take longest."""
    cells = []
    for role, batch_size in (("SB", preset.small_batch), ("LB", preset.large_batch)):
        for seed in range(seeds):
            training = replace(preset.base.training, batch_size=batch_size, seed=seed)
            config = replace(preset.base, training=training)
            cells.append(Cell(role, seed, runs / config.run_id, config))
    return cells


def train_cell(config: RunConfig, folder: Path, device: str, data_dir: Path | None, progress: Any) -> None:
    """Train one cell (in a worker)."""
    dataset = load_run_data(config, data_dir)
    train(config, dataset, RunFolder.create(folder, config), choose_device(device), progress)


def probe_cell(
    folder: Path,
    probes: dict[str, Any],
    other: Path | None,
    num_examples: int | None,
    device: str,
    data_dir: Path | None,
    progress: Any,
) -> None:
    """Measure one cell, or what lies between it and another (in a worker)."""
    probe_run(
        RunFolder.open(folder),
        probes,
        device=choose_device(device),
        other=None if other is None else RunFolder.open(other),
        num_examples=num_examples,
        data_dir=data_dir,
        progress=progress,
    )


def train_jobs(cells: list[Cell], options: Options) -> list[Job]:
    """Return a job for each cell that is not trained yet, after checking every config."""
    jobs = []
    for cell in cells:
        check_config(cell.config)
        if RunFolder(cell.folder).manifest() is None:
            label = f"{cell.role} seed {cell.seed} (batch {cell.config.training.batch_size})"
            jobs.append(Job(label, train_cell, (cell.config, cell.folder, options.device, options.data_dir)))
    return jobs


@dataclass(frozen=True)
class Measurement:
    """Probes of one cell, of the line from it to another, or of a subset of the examples."""

    label: str
    cell: Cell
    probes: dict[str, Any]
    other: Path | None = None
    num_examples: int | None = None


def measurements(cells: list[Cell], preset: Preset) -> Iterator[Measurement]:
    """Yield what the study measures on the cells that finished."""
    large = {cell.seed: cell for cell in cells if cell.role == "LB"}
    for cell in cells:
        yield Measurement(f"eigenvalue, {cell.role} seed {cell.seed}", cell, {"eigenvalues": TopEigenvalues()})
    for cell in cells:
        probes = {"keskar": KeskarSharpness(), "distance": DistanceFromStart()}
        yield Measurement(f"Keskar sharpness, {cell.role} seed {cell.seed}", cell, probes)
    for cell in cells:
        if cell.role == "SB" and cell.seed in large:
            probes = {"interpolation": preset.interpolation}
            yield Measurement(f"line SB to LB, seed {cell.seed}", cell, probes, other=large[cell.seed].folder)
    for cell in cells:
        if cell.seed == 0:
            label, probes = f"PyHessian check, {cell.role} seed 0", {"pyhessian": PyHessianCheck()}
            yield Measurement(label, cell, probes, num_examples=preset.check_examples)


def probe_jobs(cells: list[Cell], preset: Preset, options: Options) -> list[Job]:
    """Return a job for each measurement that is missing on the runs that finished."""
    if not any(RunFolder(cell.folder).manifest() for cell in cells):
        raise InputError(f"expected trained runs in {options.runs}, got none: run --stage train first")
    jobs = []
    for each in measurements([cell for cell in cells if _finished(cell)], preset):
        other = None if each.other is None else RunFolder.open(each.other)
        missing = missing_probes(RunFolder.open(each.cell.folder), each.probes, other, each.num_examples)
        if missing:
            arguments = (each.cell.folder, missing, each.other, each.num_examples, options.device, options.data_dir)
            jobs.append(Job(each.label, probe_cell, arguments))
    return jobs


def _finished(cell: Cell) -> bool:
    manifest = RunFolder(cell.folder).manifest()
    return manifest is not None and manifest["status"] == "finished"


def render_and_show(console: Console, cells: list[Cell], out: Path) -> None:
    """Render the figures; print the table, what the figures show, and where they lie."""
    # Imported here, because workers import this file too and need no plotting libraries.
    from analysis.keskar2017 import render
    from analysis.load import Cell as AnalysisCell
    from analysis.tables import HEADER, text_rows

    rendered = render([AnalysisCell(cell.role, cell.seed, cell.folder) for cell in cells], out)
    table = Table(
        title="Small batch (SB) against large batch (LB)", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1)
    )
    for number, column in enumerate(HEADER):
        table.add_column(column, justify="left" if number == 0 else "right")
    for row in text_rows(rendered.table):
        table.add_row(*map(Text, row))  # as they are: [pp] is no markup here
    console.print(table)
    for sentence in rendered.sentences:
        console.print(f"- {sentence}", highlight=False, soft_wrap=True)
    console.print("\nFigures (PDF, PNG, CSV, provenance JSON):", highlight=False)
    for path in rendered.files:
        if path.suffix in {".pdf", ".md"}:
            console.print(f"  {path}", highlight=False, soft_wrap=True)


def main() -> None:
    """Run the stages that the options ask for and say how long each took."""
    options = tyro.cli(Options, description=__doc__)
    if options.preset not in PRESETS:
        raise unknown_name("preset", options.preset, PRESETS)
    preset = PRESETS[options.preset]
    seeds = preset.seeds if options.seeds is None else options.seeds
    if seeds < 1:
        raise InputError(f"expected at least 1 seed, got {seeds}: five give error bars that mean something")
    if options.figures.exists() and not options.figures.is_dir():
        raise InputError(f"expected a folder for the figures, got the file {options.figures}: choose another --figures")
    console = Console() if sys.stdout.isatty() else Console(width=130)
    device = choose_device(options.device)
    cells = cells_of(preset, seeds, options.runs)
    console.print(
        f"Keskar et al. 2017, preset {options.preset}: {preset.base.model.name} on {preset.base.data.name}, "
        f"batches {preset.small_batch} and {preset.large_batch}, "
        f"{seeds} seed{'s' if seeds > 1 else ''}, device {device}",
        highlight=False,
    )
    default = 1 if device.type != "cpu" else min(available_cores(), len(cells))
    # The plotting libraries load while the workers train.
    threading.Thread(target=importlib.import_module, args=("analysis.keskar2017",), daemon=True).start()
    stages = {"train": lambda: train_jobs(cells, options), "probe": lambda: probe_jobs(cells, preset, options)}
    spent = {}
    with Workers(default if options.workers is None else options.workers, console) as workers:
        for name, jobs in stages.items():
            if options.stage in (name, "all"):
                started = time.perf_counter()
                workers.run(name, jobs())
                spent[name] = time.perf_counter() - started
    if options.stage in ("render", "all"):
        started = time.perf_counter()
        render_and_show(console, cells, options.figures / f"{options.preset}-{seeds}-seeds")
        spent["render"] = time.perf_counter() - started
    times = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in spent.items())
    console.print(f"\n{times}; {sum(spent.values()):.0f} s in all", highlight=False)


if __name__ == "__main__":
    run_command(main)
