"""A study: a grid of runs that are trained, measured and rendered, each stage skipping what is already there."""

from __future__ import annotations

import importlib
import json
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from scripts.runner.display import show_files, show_times
from scripts.runner.folder import StudyFolder
from scripts.runner.grid import Cell, Measurement, Preset, Study, Task
from scripts.runner.workers import Workers, available_cores
from sharpness.cli.ray_workers import RayWorkers
from sharpness.errors import InputError, unknown_name
from sharpness.machine.environment import choose_device
from sharpness.training import check_config

if TYPE_CHECKING:
    from analysis.report.report import Written

__all__ = ["Cell", "Measurement", "Preset", "Study", "Task", "run_study"]


@dataclass(frozen=True)
class Options:
    """Train, probe, render."""

    preset: str = "cpu"
    """The size of the study, as listed above."""
    seeds: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Runs of every kind that differ in their seed alone; by default the preset's own number."""
    stage: Literal["train", "probe", "render", "all"] = "all"
    """What to do; every stage needs those before it."""
    runs: Path = Path("runs")
    """Folder of the run folders; with --ray one that all nodes see."""
    figures: Path = Path("figures")
    """Folder for the figures; they go to <preset>-<seeds>-seeds inside it."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""
    data_dir: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """A folder that holds the data files, looked at first."""
    workers: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Runs at once; by default one per CPU core, or one in all on a GPU, with --ray as many as there is room for."""
    ray: Annotated[str | None, tyro.conf.arg(metavar="local|ADDRESS")] = None
    """Train and probe on a Ray cluster: auto on one of its nodes, HOST:6379, or local to start one here."""


def run_study(study: Study) -> None:
    """Run the stages that the command line asks for and say how long each took."""
    described = "\n\n".join([study.about, "Presets:", *(f"{n}: {p.about}" for n, p in study.presets.items())])
    defaults = Options(runs=Path("runs") / study.name, figures=Path("figures") / study.name)
    options = tyro.cli(Options, default=defaults, description=described)
    if options.ray is not None:  # a node's working folder is another
        place = options.data_dir and options.data_dir.resolve()
        options = replace(options, runs=options.runs.resolve(), data_dir=place)
    if options.preset not in study.presets:
        raise unknown_name("preset", options.preset, study.presets)
    preset = study.presets[options.preset]
    seeds = preset.seeds if options.seeds is None else options.seeds
    if seeds < 1:
        raise InputError(f"expected at least 1 seed, got {seeds}: five give error bars that mean something")
    if options.figures.exists() and not options.figures.is_dir():
        raise InputError(f"expected a folder for the figures, got the file {options.figures}: choose another --figures")
    console = Console() if sys.stdout.isatty() else Console(width=130)
    cells = list(study.cells(preset, seeds))
    _announce(console, study, options, cells, seeds)
    # The plotting libraries load while the workers train.
    threading.Thread(target=importlib.import_module, args=(study.analysis,), daemon=True).start()
    spent = _train_and_probe(study, preset, cells, options, console)
    if options.stage in ("render", "all"):
        started = time.perf_counter()
        show(console, _render(study, preset, cells, options, seeds))
        spent["render"] = time.perf_counter() - started
    show_times(console, spent)


def _render(study: Study, preset: Preset, cells: list[Cell], options: Options, seeds: int) -> Written:
    # Imported here, because workers import this file too and need no plotting libraries.
    from analysis.report.report import render_study

    folder = StudyFolder(options.runs, options.device, options.data_dir)
    places = [(dict(cell.labels), folder.place(cell)) for cell in cells]
    measured = folder.task_files(study.measurements(preset, cells))
    settings = {**_plain(preset), "preset": options.preset, "seeds": seeds}
    report = importlib.import_module(study.analysis).report
    return render_study(report, places, measured, settings, options.figures / f"{options.preset}-{seeds}-seeds")


def _announce(console: Console, study: Study, options: Options, cells: Sequence[Cell], seeds: int) -> None:
    where = f"device {choose_device(options.device)}" if options.ray is None else f"Ray at {options.ray}"
    configs = {cell.config.run_id: cell.config for cell in cells}.values()
    models = ", ".join(sorted({config.model.name for config in configs}))
    data = ", ".join(sorted({config.data.name for config in configs}))
    sizes = sorted({config.training.batch_size for config in configs})
    batches = f"{sizes[0]} to {sizes[-1]}" if len(sizes) > 4 else " and ".join(map(str, sizes))
    counts = [f"{n} {word}{'s' if n > 1 else ''}" for n, word in ((len(configs), "run"), (seeds, "seed"))]
    console.print(
        f"{study.title}, preset {options.preset}: {models} on {data}, batch{'es' if len(sizes) > 1 else ''} {batches}, "
        f"{', '.join(counts)}, {where}",
        highlight=False,
    )


def _train_and_probe(
    study: Study, preset: Preset, cells: list[Cell], options: Options, console: Console
) -> dict[str, float]:
    waves = sorted({cell.wave for cell in cells})
    spent: dict[str, float] = {}
    with _workers(options, len(cells), console) as workers:
        folder = StudyFolder(options.runs, workers.device, options.data_dir)
        if options.stage in ("train", "all"):
            started = time.perf_counter()
            for cell in cells:
                check_config(cell.config)
            for wave in waves:
                ready = [cell for cell in cells if cell.wave == wave]
                workers.run("train", folder.training_jobs(ready))
            spent["train"] = time.perf_counter() - started
        if options.stage in ("probe", "all"):
            started = time.perf_counter()
            if not any(folder.status(cell) != "missing" for cell in cells):
                raise InputError(f"expected trained runs in {options.runs}, got none: run --stage train first")
            workers.run("probe", folder.probing_jobs(study.measurements(preset, cells)))
            spent["probe"] = time.perf_counter() - started
    return spent


def _workers(options: Options, num_runs: int, console: Console) -> Workers | RayWorkers:
    if options.ray is not None and options.stage != "render":
        return RayWorkers(options.ray, options.workers, options.device, options.runs, console)
    default = 1 if choose_device(options.device).type != "cpu" else min(available_cores(), num_runs)
    return Workers(default if options.workers is None else options.workers, options.device, console)


def _plain(preset: Any) -> dict[str, Any]:
    """Return a preset as plain values, for captions and provenance, without the text about it."""
    values = json.loads(json.dumps(asdict(preset), default=str))
    return {name: value for name, value in values.items() if name != "about"}


def show(console: Console, written: Written) -> None:
    """Print the tables, what they show, the verdicts, what was checked, and where the figures lie."""
    for each in written.tables:
        table = Table(title=each.title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1))
        for number, column in enumerate(each.header):
            table.add_column(Text(column), justify="left" if number == 0 else "right")  # [pp] is no markup here
        for row in each.rows:
            table.add_row(*map(Text, row))
        console.print(table)
    for line in (*written.sentences, *(finding.line for finding in written.findings)):
        console.print(f"- {line}", highlight=False, soft_wrap=True)
    if written.checks:
        console.print("\nChecks:")
    for line in written.checks:
        console.print(f"- {line}", highlight=False, soft_wrap=True)
    show_files(console, written.files)
