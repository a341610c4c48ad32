"""Spectra of Hessians side by side: density, eigenvalues of each layer, and how the top eigenvalue converged.

Probes each run folder and draws the three figures. What a run has a record of is not measured again, so the same
command goes on after a stop of any kind.

What to expect, on two CPU cores: two runs of F1 (1.5 million weights, 2,000 examples, --steps 80 --starts 4) took 15
minutes of measurements, shared by the cores. The trace is 14.8 +- 1.9 nats after batches of 64 and 234 +- 19 after
batches of 1,000, and a million eigenvalues may be negative at either (figures/spectra).
"""

from __future__ import annotations

import importlib
import sys
import threading
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # analysis/ and scripts/ are not installed

import tyro
from rich.console import Console

from scripts.runner.display import show_files, show_times
from scripts.runner.folder import probe_cell
from scripts.runner.workers import Workers, available_cores
from sharpness.cli import run_command
from sharpness.cli.jobs import Job
from sharpness.cli.ray_workers import RayWorkers
from sharpness.errors import InputError
from sharpness.machine.environment import choose_device
from sharpness.measure.recorded import missing_probes
from sharpness.probes import LayerEigenvalues, SpectralDensity, TopEigenvalues
from sharpness.runs import RunFolder

LAYER_PRODUCTS = 30
"""Ceiling for each layer: its top eigenvalue takes about 10; a bottom one that is not resolved by then is said so."""


@dataclass(frozen=True)
class Options:
    """Measure and draw the spectrum of the Hessian of one to four trained networks."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders of finished runs, drawn in this order."""
    out: Path
    """Folder for the figures."""
    examples: Annotated[int | None, tyro.conf.arg(metavar="N|None")] = 2000
    """Size of the random subset of the training set on which everything is measured; None: the whole set."""
    steps: int = 40
    """Lanczos steps of the density, from each start."""
    starts: int = 2
    """Random starts of the density."""
    k: int = 3
    """Number of eigenvalues at each end of the whole network's spectrum; a layer has one at each end."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""
    data_dir: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """A folder that holds the data files, looked at first."""
    workers: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Number of processes; by default one per CPU core, or one in all on a GPU, with --ray as many as there is room."""
    ray: Annotated[str | None, tyro.conf.arg(metavar="local|ADDRESS")] = None
    """Measure on a Ray cluster whose nodes all see the run folders: `local` starts one here."""


def probes_of(options: Options) -> dict[str, Any]:
    """Return the probes by name; all see the same examples, so that their eigenvalues are of one matrix."""
    return {
        "eigenvalues": TopEigenvalues(k=options.k, which="both"),
        "density": SpectralDensity(steps=options.steps, starts=options.starts),
        "layers": LayerEigenvalues(k=1, which="both", num_hvps=LAYER_PRODUCTS),
    }


def probe_jobs(options: Options, probes: dict[str, Any]) -> list[Job]:
    """Return a job for each record that a run lacks, the longest first."""
    jobs = []
    for name in ("layers", "eigenvalues", "density"):
        for folder in options.runs:
            missing = missing_probes(RunFolder.open(folder), {name: probes[name]}, None, options.examples)
            if missing:
                arguments = (folder, missing, None, options.examples, options.device, options.data_dir)
                jobs.append(Job(f"{name}, {folder.name}", probe_cell, arguments))
    return jobs


def render_and_show(console: Console, options: Options, probes: dict[str, Any]) -> None:
    """Render the figures; print what was not drawn, and where the figures lie."""
    # Imported here, because workers import this file too and need no plotting libraries.
    from analysis.report.spectra import render_spectra

    knobs = {name: asdict(probe) for name, probe in probes.items()}
    rendered = render_spectra(options.runs, options.out, knobs, options.examples)
    for refusal in rendered.refusals:
        console.print(f"- {refusal}", highlight=False, soft_wrap=True)
    show_files(console, rendered.files)


def _workers(options: Options, num_jobs: int, console: Console) -> Workers | RayWorkers:
    if options.ray is not None:
        return RayWorkers(options.ray, options.workers, options.device, options.runs[0].parent, console)
    default = 1 if choose_device(options.device).type != "cpu" else min(available_cores(), num_jobs)
    return Workers(default if options.workers is None else options.workers, options.device, console)


def job_on(job: Job, device: str) -> Job:
    """Return a job of :func:`probe_jobs` for the device that its worker has."""
    folder, missing, other, examples, _, data_dir = job.arguments
    return replace(job, arguments=(folder, missing, other, examples, device, data_dir))


def main() -> None:
    """Probe, render and say how long each took."""
    options = tyro.cli(Options, description=__doc__)
    if not options.runs:
        raise InputError("expected 1 to 4 run folders, got none: name finished runs")
    if options.out.exists() and not options.out.is_dir():
        raise InputError(f"expected a folder for the figures, got the file {options.out}: choose another --out")
    console = Console() if sys.stdout.isatty() else Console(width=130)
    probes = probes_of(options)
    if options.ray is not None:  # a node's working folder is another
        data_dir = None if options.data_dir is None else options.data_dir.resolve()
        options = replace(options, runs=tuple(run.resolve() for run in options.runs), data_dir=data_dir)
    jobs = probe_jobs(options, probes)
    # The plotting libraries load while the workers measure.
    threading.Thread(target=importlib.import_module, args=("analysis.report.spectra",), daemon=True).start()
    spent, started = {}, time.perf_counter()
    if jobs:
        with _workers(options, len(jobs), console) as workers:
            workers.run("probe", [job_on(job, workers.device) for job in jobs])
    spent["probe"] = time.perf_counter() - started
    started = time.perf_counter()
    render_and_show(console, options, probes)
    spent["render"] = time.perf_counter() - started
    show_times(console, spent)


if __name__ == "__main__":
    run_command(main)
