"""A study: a grid of runs that are trained, measured and rendered, each stage skipping what is already there."""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

import tyro
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from workers import Job, Workers, available_cores

from sharpness.checkpoints.run_folders import load_run_data
from sharpness.config import RunConfig
from sharpness.environment import choose_device, git_commit, versions
from sharpness.errors import InputError, unknown_name
from sharpness.probes.run_folders import checkpoint_sha256, missing_probes, probe_run
from sharpness.records import write_atomically
from sharpness.runs import RunFolder
from sharpness.training import check_config, train

if TYPE_CHECKING:
    from analysis.report import Rendered

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
        """What the progress lines say: ``LB, seed 0``."""
        return ", ".join(value if isinstance(value, str) else f"{key} {value}" for key, value in self.labels.items())

    @property
    def wave(self) -> int:
        """How many runs come before it, one after the other."""
        return 0 if self.after is None else self.after.wave + 1


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
    """A measurement of a study's own: ``function(folders, device, data_dir, progress, **knobs)`` returns rows.

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
        """How many seeds by default."""
        ...

    @property
    def about(self) -> str:
        """What ``--help`` says of it: data, sizes, how long it takes, whether it was run."""
        ...


@dataclass(frozen=True)
class Study:
    """What a script is made of; ``about`` is shown by ``--help``.

    ``cells(preset, seeds)`` is the grid and ``measurements(preset, cells)`` what is measured on the runs that finished.
    ``analysis`` is the module whose ``render(places, measured, settings, out)`` draws: labels and folder of every run,
    the files of the tasks, the preset's fields, and where to; it returns an ``analysis.report.Rendered``.
    ``shares`` names the study whose folder of runs this one uses too, so that no run of both is trained twice.
    """

    name: str
    title: str
    about: str
    presets: Mapping[str, Preset]
    cells: Callable[[Any, int], Sequence[Cell]]
    measurements: Callable[[Any, Sequence[Cell]], Iterable[Measurement | Task]]
    analysis: str
    shares: str | None = None


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
    """Number of processes; by default one per CPU core, or one in all on a GPU."""


def train_cell(config: RunConfig, folder: Path, device: str, data_dir: Path | None, progress: Any) -> None:
    """Train one run (in a worker)."""
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
    """Measure one run, or what lies between it and another (in a worker)."""
    probe_run(
        RunFolder.open(folder),
        probes,
        device=choose_device(device),
        other=None if other is None else RunFolder.open(other),
        num_examples=num_examples,
        data_dir=data_dir,
        progress=progress,
    )


def do_task(task: Task, folders: list[Path], path: Path, device: str, data_dir: Path | None, progress: Any) -> None:
    """Measure what a task asks for and write its rows (in a worker)."""
    started = time.perf_counter()
    rows = task.function(folders, choose_device(device), data_dir, progress, **task.knobs)
    content = {
        **{"name": task.name, "labels": dict(task.labels), "knobs": dict(task.knobs), "rows": rows},
        **{"checkpoints": {folder.name: checkpoint_sha256(RunFolder.open(folder)) for folder in folders}},
        **{"seconds": time.perf_counter() - started, "git_commit": git_commit(), "versions": versions()},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(content, allow_nan=False, sort_keys=True) + "\n").encode())


class StudyFolder:
    """The runs of one study on disk, and what is still to be done to them."""

    def __init__(self, runs: Path, device: str, data_dir: Path | None) -> None:
        self.runs, self._device, self._data_dir = runs, device, data_dir

    def place(self, cell: Cell) -> Path:
        """Return the folder of a run, which its config names."""
        return self.runs / cell.config.run_id

    def status(self, cell: Cell) -> str:
        """Return ``finished``, ``diverged`` or ``missing``."""
        manifest = RunFolder(self.place(cell)).manifest()
        return "missing" if manifest is None else manifest["status"]

    def training_jobs(self, cells: Iterable[Cell]) -> list[Job]:
        """Return a job for each run that is not there yet and can begin, once where cells of two labels share one."""
        jobs: dict[str, Job] = {}
        for cell in cells:
            begins = cell.after is None or self.status(cell.after) == "finished"
            if begins and self.status(cell) == "missing" and cell.config.run_id not in jobs:
                arguments = (cell.config, self.place(cell), self._device, self._data_dir)
                jobs[cell.config.run_id] = Job(cell.name, train_cell, arguments)
        return list(jobs.values())

    def probing_jobs(self, wanted: Iterable[Measurement | Task]) -> list[Job]:
        """Return a job for each measurement that is missing on the runs that finished."""
        jobs: dict[Any, Job] = {}
        for each in wanted:
            cells = each.cells if isinstance(each, Task) else [each.cell, *([each.other] if each.other else [])]
            if any(self.status(cell) != "finished" for cell in cells):
                continue
            key, job = self._task_job(each) if isinstance(each, Task) else self._measurement_job(each)
            if job is not None:
                jobs.setdefault(key, job)
        return list(jobs.values())

    def task_files(self, wanted: Iterable[Measurement | Task]) -> list[Path]:
        """Return the files of the tasks that were done."""
        paths = [self._task_file(each) for each in wanted if isinstance(each, Task)]
        return [path for path in dict.fromkeys(paths) if path.exists()]

    def _measurement_job(self, each: Measurement) -> tuple[Any, Job | None]:
        run, other = (RunFolder.open(self.place(c)) if c is not None else None for c in (each.cell, each.other))
        assert run is not None  # the cell of a measurement is there
        missing = missing_probes(run, each.probes, other, each.num_examples)
        far = None if other is None else other.path
        arguments = (run.path, missing, far, each.num_examples, self._device, self._data_dir)
        job = Job(each.label, probe_cell, arguments) if missing else None
        return repr(arguments), job

    def _task_job(self, task: Task) -> tuple[Any, Job | None]:
        folders, path = [self.place(cell) for cell in task.cells], self._task_file(task)
        label = ", ".join([task.name.replace("_", " "), Cell(task.labels, task.cells[0].config).name])
        arguments = (task, folders, path, self._device, self._data_dir)
        return path, None if path.exists() else Job(label, do_task, arguments)

    def _task_file(self, task: Task) -> Path:
        runs = [cell.config.run_id for cell in task.cells]
        identity = json.dumps([runs, dict(task.labels), dict(task.knobs)], sort_keys=True)
        return self.runs / "measured" / task.name / f"{hashlib.sha256(identity.encode()).hexdigest()[:16]}.json"


def run_study(study: Study) -> None:
    """Run the stages that the command line asks for and say how long each took."""
    described = "\n\n".join([study.about, "Presets:", *(f"{n}: {p.about}" for n, p in study.presets.items())])
    defaults = Options(runs=Path("runs") / (study.shares or study.name), figures=Path("figures") / study.name)
    options = tyro.cli(Options, default=defaults, description=described)
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
        folder = StudyFolder(options.runs, options.device, options.data_dir)
        places = [(dict(cell.labels), folder.place(cell)) for cell in cells]
        out = options.figures / f"{options.preset}-{seeds}-seeds"
        settings = {"preset": options.preset, "seeds": seeds, **_plain(preset)}
        measured = folder.task_files(study.measurements(preset, cells))
        show(console, importlib.import_module(study.analysis).render(places, measured, settings, out))
        spent["render"] = time.perf_counter() - started
    times = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in spent.items())
    console.print(f"\n{times}; {sum(spent.values()):.0f} s in all", highlight=False)


def _announce(console: Console, study: Study, options: Options, cells: Sequence[Cell], seeds: int) -> None:
    device = choose_device(options.device)
    configs = {cell.config.run_id: cell.config for cell in cells}.values()
    models = ", ".join(sorted({config.model.name for config in configs}))
    data = ", ".join(sorted({config.data.name for config in configs}))
    sizes = sorted({config.training.batch_size for config in configs})
    batches = f"{sizes[0]} to {sizes[-1]}" if len(sizes) > 4 else " and ".join(map(str, sizes))
    counts = [f"{n} {word}{'s' if n > 1 else ''}" for n, word in ((len(configs), "run"), (seeds, "seed"))]
    console.print(
        f"{study.title}, preset {options.preset}: {models} on {data}, batch{'es' if len(sizes) > 1 else ''} {batches}, "
        f"{', '.join(counts)}, device {device}",
        highlight=False,
    )


def _train_and_probe(
    study: Study, preset: Preset, cells: list[Cell], options: Options, console: Console
) -> dict[str, float]:
    folder = StudyFolder(options.runs, options.device, options.data_dir)
    waves = sorted({cell.wave for cell in cells})
    spent: dict[str, float] = {}
    default = 1 if choose_device(options.device).type != "cpu" else min(available_cores(), len(cells))
    with Workers(default if options.workers is None else options.workers, console) as workers:
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


def _plain(preset: Any) -> dict[str, Any]:
    """Return a preset as plain values, for captions and provenance."""
    return json.loads(json.dumps(asdict(preset), default=str))


def show(console: Console, rendered: Rendered) -> None:
    """Print the tables, what they show, the verdicts, and where the figures lie."""
    for each in rendered.tables:
        table = Table(title=each.title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1))
        for number, column in enumerate(each.header):
            table.add_column(column, justify="left" if number == 0 else "right")
        for row in each.rows:
            table.add_row(*map(Text, row))  # as they are: [pp] is no markup here
        console.print(table)
    for sentence in rendered.sentences:
        console.print(f"- {sentence}", highlight=False, soft_wrap=True)
    for finding in rendered.findings:
        console.print(f"- {finding.line}", highlight=False, soft_wrap=True)
    console.print("\nFigures (PDF, PNG, CSV, provenance JSON):", highlight=False)
    for path in rendered.files:
        if path.suffix in {".pdf", ".md"}:
            console.print(f"  {path}", highlight=False, soft_wrap=True)
