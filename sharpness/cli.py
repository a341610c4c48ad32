"""The ``sharpness`` command: train a run, probe it, list what there is."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from sharpness.errors import InputError, RunError


@dataclass(frozen=True)
class Train:
    """Train one network as a TOML config says; the same command again goes on from where it stopped."""

    config: tyro.conf.Positional[Path]
    """The config file: tables [data], [model] and [training]; every key may be left out."""
    out: Path
    """The run folder to make or to go on with."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""
    data_dir: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """A folder that holds the data files, looked at first."""


@dataclass(frozen=True)
class Probe:
    """Measure the final weights of a run over its training set; records go to probes.jsonl in the run folder."""

    run: tyro.conf.Positional[Path]
    """The run folder of a finished training run."""
    probes: Annotated[str | None, tyro.conf.arg(metavar="NAME,NAME")] = None
    """Names from `sharpness probes`, separated by commas; by default all that need one run only."""
    other: Annotated[Path | None, tyro.conf.arg(metavar="RUN")] = None
    """A second run folder, for probes between two checkpoints."""
    examples: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Measure on a random subset of so many training examples, as one batch."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""
    data_dir: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """A folder that holds the data files, looked at first."""


@dataclass(frozen=True)
class Probes:
    """List the probes."""


@dataclass(frozen=True)
class Models:
    """List the models."""


@dataclass(frozen=True)
class Datasets:
    """List the datasets."""


Command = (
    Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Probe, tyro.conf.subcommand("probe")]
    | Annotated[Probes, tyro.conf.subcommand("probes")]
    | Annotated[Models, tyro.conf.subcommand("models")]
    | Annotated[Datasets, tyro.conf.subcommand("datasets")]
)


def main() -> None:
    """Run the command line; bad input exits with code 2 and one line, a failed run with code 1."""
    run_command(_dispatch)


def run_command(command: Callable[[], None]) -> None:
    """Call a command and turn its errors into one line and an exit code: 2 bad input, 1 failed run, 130 Ctrl-C."""
    try:
        command()
    except InputError as error:
        _leave(str(error), 2)
    except RunError as error:
        _leave(str(error), 1)
    except OSError as error:
        bad_path = (NotADirectoryError, IsADirectoryError, FileExistsError, FileNotFoundError, PermissionError)
        _leave(f"{error.filename or ''}: {error.strerror or error}", 2 if isinstance(error, bad_path) else 1)
    except KeyboardInterrupt:
        _leave("stopped; what is done is kept, and the same command goes on from there", 130)


def _leave(message: str, code: int) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)


def _dispatch() -> None:
    command = tyro.cli(Command, prog="sharpness", description="How flat or sharp is the minimum a network sits in?")  # type: ignore[arg-type]
    console = Console()
    if isinstance(command, Train):
        _train(command, console)
    elif isinstance(command, Probe):
        _probe(command, console)
    else:
        _list(command, console)


def _train(command: Train, console: Console) -> None:
    from sharpness.checkpoints import load_run_data
    from sharpness.config import from_toml
    from sharpness.environment import choose_device
    from sharpness.runs import RunFolder
    from sharpness.training import check_config, train

    config, device = from_toml(command.config), choose_device(command.device)
    check_config(config)
    dataset = load_run_data(config, command.data_dir)
    run = RunFolder.create(command.out, config)
    with _progress(console, f"train {config.run_id}", "epochs") as progress:
        manifest = train(config, dataset, run, device, progress)
    if manifest["status"] != "finished":
        raise RunError(f"{command.out}: the run {manifest['status']}: {manifest['reason']}; it is recorded as such")
    final = manifest["final"]
    console.print(
        f"{command.out}: {manifest['step']} steps in {manifest['seconds']:.0f} s; "
        f"train loss {final['train_loss']:.4f}, accuracy {100 * final['train_accuracy']:.2f} %; "
        f"test loss {final['test_loss']:.4f}, accuracy {100 * final['test_accuracy']:.2f} %",
        highlight=False,
        soft_wrap=True,
    )


def _probe(command: Probe, console: Console) -> None:
    from sharpness.environment import choose_device
    from sharpness.probes.runner import choose_probes, probe_run
    from sharpness.runs import RunFolder

    run, device = RunFolder.open(command.run), choose_device(command.device)
    probes = choose_probes(None if command.probes is None else command.probes.split(","))
    other = None if command.other is None else RunFolder.open(command.other)
    for name, probe in probes.items():
        with _progress(console, name, "steps") as progress:
            records = probe_run(
                run,
                {name: probe},
                device=device,
                other=other,
                num_examples=command.examples,
                data_dir=command.data_dir,
                progress=progress,
            )
        if not records:
            console.print(f"{name}: in probes.jsonl already", highlight=False)
    console.print(_records_table(run))


def _records_table(run: object) -> Table:
    from sharpness.runs import RunFolder

    assert isinstance(run, RunFolder)
    table = Table(title=str(run.path), title_justify="left")
    for name in ("probe", "quantity", "value", "interval", "examples", "HVPs", "gradients", "seconds"):
        table.add_column(name, justify="left" if name in ("probe", "quantity") else "right")
    for record in run.records():
        value = "null" if record.value is None else f"{record.value:.5g}"
        bounds = ["" if bound is None else f"{bound:.5g}" for bound in (record.lower, record.upper)]
        interval = f"[{bounds[0]}, {bounds[1]}]" if any(bounds) else ""
        costs = (
            str(record.num_examples),
            str(record.num_hvps),
            str(record.num_gradients),
            f"{record.seconds or 0:.1f}",
        )
        table.add_row(record.probe, record.quantity, value, interval, *costs)
    return table


def bar_columns() -> tuple[ProgressColumn, ...]:
    """Return the columns of a progress bar: what, how far, how many, time spent and time left."""
    text = TextColumn("{task.description}")
    return text, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()


@contextmanager
def _progress(console: Console, title: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar on a terminal; elsewhere a line for each tenth."""
    if not console.is_terminal:
        printed = [-1]

        def line(done: int, total: int) -> None:
            if 10 * done // total > printed[0]:
                printed[0] = 10 * done // total
                print(f"{title}: {done} of {total} {unit}", flush=True)

        yield line
        return
    with Progress(*bar_columns(), console=console) as bars:
        task = bars.add_task(title, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


def _list(command: Probes | Models | Datasets, console: Console) -> None:
    if isinstance(command, Probes):
        from sharpness.probes import PROBES as REGISTRY
    elif isinstance(command, Models):
        from sharpness.models import MODELS as REGISTRY
    else:
        from sharpness.data import DATASETS as REGISTRY
    width = max(map(len, REGISTRY))
    for name, info in REGISTRY.items():
        console.print(f"{name:<{width}}  {info.description}", highlight=False, soft_wrap=True)
