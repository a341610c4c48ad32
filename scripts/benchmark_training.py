"""How much of the barest PyTorch loop the training loop reaches, and what checkpoints and tracking cost.

Our updates against a loop with nothing in it but the step, and against one over torch's DataLoader, on the same
network, images and threads, in turns, medians of several rounds; evaluations at the ends of epochs are in none. Then
the cost of saving after every epoch, of the top eigenvalue once an epoch, and of training runs of several seeds as one.
One run writes benchmark.md, benchmark.csv, benchmark.json and a figure.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

import matplotlib as mpl
import pandas as pd
import torch
import tyro
from benchmark_tables import cpu, csv_of, markdown
from benchmark_tools import interleaved, seconds_of
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from sharpness.cli import run_command
from sharpness.config import MeasureConfig, ModelConfig, RunConfig, TrainingConfig
from sharpness.data import Dataset, load_dataset, normalise
from sharpness.environment import git_commit, versions
from sharpness.models import build_model
from sharpness.plots.axes import log_axis
from sharpness.plots.save import save_figure
from sharpness.plots.style import COLUMN, LOOKS, STYLE, new_figure
from sharpness.records import write_atomically
from sharpness.runs import RunFolder
from sharpness.training import train
from sharpness.training.ends import after_update, begin
from sharpness.training.loop import one_update
from sharpness.training.position import Position
from sharpness.training.session import Session
from sharpness.training.together import train_together

CPU = torch.device("cpu")
Row = dict[str, Any]
WINDOW_SECONDS = 1.5
"""Rounds are about so long, and at least two updates."""


@dataclass(frozen=True)
class Options:
    """Measure and write the tables."""

    networks: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = ("f1", "c1")
    """Names of `sharpness models`."""
    batches: Annotated[tuple[int, ...], tyro.conf.arg(metavar="N ...")] = (32, 256, 5000)
    """Batch sizes of the loops."""
    parts: tuple[Literal["loop", "checkpoint", "tracking", "together"], ...] = (
        "loop",
        "checkpoint",
        "tracking",
        "together",
    )
    """loop: updates. checkpoint: saving. tracking: the eigenvalue on 2,000 examples. together: eight seeds as one."""
    rounds: int = 7
    """Rounds of every contender, in turns."""
    threads: int = 2
    """CPU threads."""
    examples: int = 10_000
    """Training images of Fashion-MNIST; fewer for a trial."""
    figures: Path = Path("figures/benchmark_training")
    """Folder for the tables."""


def session_of(config: RunConfig, dataset: Dataset, folder: Path) -> Session:
    """Return a run that has begun, in a folder of its own."""
    session = Session.open(config, dataset, RunFolder.create(folder, config), CPU)
    begin(session, session.restore())
    session.network.train()
    return session


def config_of(network: str, batch_size: int, **training: Any) -> RunConfig:
    """Return the config of a network with the optimiser of the Keskar study."""
    return RunConfig(
        model=ModelConfig(name=network), training=TrainingConfig(batch_size=batch_size, epochs=10_000, **training)
    )


def our_updates(session: Session, count: int) -> Callable[[], None]:
    """Return what makes so many of our updates, going on from where the last call ended."""
    place = [session.restore()]

    def run() -> None:
        for _ in range(count):
            before, place[0] = place[0], one_update(session, place[0])
            if place[0].epoch == before.epoch:
                after_update(session, before, place[0], None)
            else:
                session.sums.clear()  # the evaluation at the end of the epoch is in no contender

    return run


def bare_updates(config: RunConfig, dataset: Dataset, count: int) -> Callable[[], None]:
    """Return the barest loop: rows, network, loss, gradient, step; no log, no checkpoint."""
    model, optimizer = _model_and_adam(config, dataset)
    size, images, targets = config.training.batch_size, dataset.train.inputs, dataset.train.targets
    rows = _endless_rows(len(targets), size)

    def run() -> None:
        for _ in range(count):
            chosen = next(rows)
            loss = cross_entropy(model(normalise(images[chosen])), targets[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return run


def loader_updates(config: RunConfig, dataset: Dataset, count: int) -> Callable[[], None]:
    """Return the usual loop over a DataLoader that shuffles, in this process, images as numbers beforehand."""
    model, optimizer = _model_and_adam(config, dataset)
    pairs = TensorDataset(normalise(dataset.train.inputs), dataset.train.targets)
    loader = DataLoader(pairs, batch_size=config.training.batch_size, shuffle=True, drop_last=True)

    def endless() -> Iterator[Any]:
        while True:
            yield from loader

    batches = endless()

    def run() -> None:
        for _ in range(count):
            inputs, targets = next(batches)
            loss = cross_entropy(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return run


def _model_and_adam(config: RunConfig, dataset: Dataset) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = build_model(config.model, dataset.input_shape, dataset.num_classes, 0).train()
    return model, torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)


def _endless_rows(examples: int, size: int) -> Iterator[torch.Tensor]:
    while True:
        yield from torch.randperm(examples)[: examples // size * size].split(size)


def loop_rows(options: Options, dataset: Dataset, folder: Path) -> Iterator[Row]:
    """Yield images per second of the three loops for every network and batch size."""
    for network in options.networks:
        for size in options.batches:
            config = config_of(network, size)
            one = seconds_of(bare_updates(config, dataset, 2)) / 2
            count = max(2, round(WINDOW_SECONDS / one))
            calls = {
                "ours": our_updates(session_of(config, dataset, folder / f"{network}-{size}"), count),
                "bare": bare_updates(config, dataset, count),
                "loader": loader_updates(config, dataset, count),
            }
            for call in calls.values():
                call()  # the first touch
            seconds = interleaved(calls, options.rounds)
            rates = {name: count * size / value for name, value in seconds.items()}
            yield {
                **{"part": "loop", "network": network, "batch": size, "ours (images/s)": rates["ours"]},
                **{"bare (images/s)": rates["bare"], "DataLoader (images/s)": rates["loader"]},
                **{"ours / bare": rates["ours"] / rates["bare"], "ours / DataLoader": rates["ours"] / rates["loader"]},
            }


def checkpoint_rows(options: Options, dataset: Dataset, folder: Path) -> Iterator[Row]:
    """Yield what writing everything that a run needs to go on costs beside an epoch of updates."""
    for network in options.networks:
        session = session_of(config_of(network, 64), dataset, folder / f"save-{network}")
        updates = -(-len(dataset.train) // 64)
        epoch = our_updates(session, updates)
        epoch()
        calls = {"epoch": epoch, "save": lambda s=session: s.save(Position(update=1, log_rows=1))}
        seconds = interleaved(calls, options.rounds)
        yield {
            **{"part": "checkpoint", "network": network, "batch": 64, "epoch (s)": seconds["epoch"]},
            **{"save (s)": seconds["save"], "share (%)": 100 * seconds["save"] / seconds["epoch"]},
        }


def tracking_rows(options: Options, dataset: Dataset, folder: Path) -> Iterator[Row]:
    """Yield what the top eigenvalue once an epoch on 2,000 examples costs beside the epoch's updates."""
    for network in options.networks:
        config = replace(config_of(network, 64), measure=MeasureConfig(names=("eigenvalue",), examples=2000))
        session = session_of(config, dataset, folder / f"track-{network}")
        epoch = our_updates(session, -(-len(dataset.train) // 64))
        split = session.train.first(min(2000, len(session.train)))
        epochs, solves, products = [], [], []
        for number in range(min(options.rounds, 5) + 1):
            took = seconds_of(epoch)
            started = time.perf_counter()
            row = session.measures(session.loss_over(split), 1e-3)
            if number:  # the first solve starts at random
                epochs.append(took)
                solves.append(time.perf_counter() - started)
                products.append(row["top_eigenvalue_hvps"])
        median = sorted(epochs)[len(epochs) // 2], sorted(solves)[len(solves) // 2]
        yield {
            **{"part": "tracking", "network": network, "batch": 64, "epoch (s)": median[0]},
            **{"solve (s)": median[1], "products": sorted(products)[len(products) // 2]},
            "share (%)": 100 * median[1] / median[0],
        }


def together_rows(options: Options, dataset: Dataset, folder: Path) -> Iterator[Row]:
    """Yield the seconds of eight seeds trained as one against eight runs one after the other."""
    for network in ("smith_le", "f1"):
        for size in options.batches[:2]:
            model = ModelConfig(name=network, norm="none")
            training = TrainingConfig(batch_size=size, epochs=1, vectorised=True)
            configs = [RunConfig(model=model, training=replace(training, seed=seed)) for seed in range(8)]
            name = f"{network}-{size}"
            runs = [RunFolder.create(folder / f"as-one-{name}-{c.training.seed}", c) for c in configs]
            as_one = seconds_of(lambda c=configs, r=runs: train_together(c, dataset, r, CPU))
            single = seconds_of(
                lambda c=configs, n=name: [
                    train(each, dataset, RunFolder.create(folder / f"alone-{n}-{each.training.seed}", each), CPU)
                    for each in c
                ]
            )
            yield {
                **{"part": "together", "network": network, "batch": size, "eight as one (s)": as_one},
                **{"eight alone (s)": single, "alone / as one": single / as_one},
            }


PARTS = {"loop": loop_rows, "checkpoint": checkpoint_rows, "tracking": tracking_rows, "together": together_rows}
CONTENDERS = {"ours (images/s)": "ours", "DataLoader (images/s)": "DataLoader"}
TITLES = {
    "loop": "Updates: images per second, evaluations left out",
    "checkpoint": "Saving everything once an epoch, beside the epoch's updates",
    "tracking": "The top eigenvalue on 2,000 examples once an epoch, warm-started, beside the epoch's updates",
    "together": "Eight seeds trained as one, one epoch each, with its evaluations",
}


def measure(options: Options) -> list[Row]:
    """Return the rows of every part, in a folder that goes with them."""
    dataset = load_dataset("fashion_mnist_10k", num_train=options.examples)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for part in options.parts:
            for row in PARTS[part](options, dataset, Path(name)):
                cells = (f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items())
                print(", ".join(cells), flush=True)
                rows.append(row)
    return rows


def write(rows: list[Row], options: Options) -> list[Path]:
    """Write the tables, their CSV and what they were measured with."""
    options.figures.mkdir(parents=True, exist_ok=True)
    facts = {
        "machine": {"cpu": cpu(), "cores": os.cpu_count(), "system": platform.platform()},
        **{"threads": options.threads, "examples": options.examples, "rounds": options.rounds},
        **{"git_commit": git_commit(), "versions": versions()},
    }
    setting = f"{cpu()}, {options.threads} threads, {options.examples:,} images of Fashion-MNIST, float32, Adam."
    texts = [f"# Training benchmark\n\n{setting}"]
    for part in options.parts:
        table = pd.DataFrame([{k: v for k, v in row.items() if k != "part"} for row in rows if row["part"] == part])
        texts.append(f"## {TITLES[part]}\n\n{markdown(table)}")
    contents = {
        "benchmark.md": "\n\n".join(texts) + "\n",
        "benchmark.csv": csv_of(pd.DataFrame(rows)).decode(),
        "benchmark.json": json.dumps(facts, indent=2, sort_keys=True, allow_nan=False) + "\n",
    }
    for name, content in contents.items():
        write_atomically(options.figures / name, content.encode())
    loops = pd.DataFrame([row for row in rows if row["part"] == "loop"])
    return [options.figures / name for name in contents] + (_figure(loops, options, facts) if len(loops) else [])


def _figure(table: pd.DataFrame, options: Options, facts: Row) -> list[Path]:
    """Draw the throughput of the loops relative to the barest one."""
    networks = list(dict.fromkeys(table["network"]))
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(COLUMN, 2.4, columns=len(networks))
        for ax, network in zip(axes.flat, networks, strict=True):
            here = table[table["network"] == network]
            bare = here["bare (images/s)"]
            for (name, label), look in zip(CONTENDERS.items(), LOOKS, strict=False):
                share = 100 * here[name] / bare
                ax.plot(here["batch"], share, label=label, color=look.color, marker=look.marker, linestyle="")
            ax.axhline(95, color="0.4", linewidth=0.8, linestyle="--", zorder=1)
            ax.set(title=network.upper(), xlabel="Batch size", ylim=(0, None))
            log_axis(ax.xaxis, here["batch"], padding=1.6)
        axes.flat[0].set_ylabel("Share of the barest loop (%)")
        handles, labels = axes.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=2)
        caption = (
            "Images per second of our training loop and of a loop over torch's DataLoader, as a share of the barest "
            f"loop on the same images; medians of {options.rounds} rounds in turns. Dashed: 95 %."
        )
        return save_figure(figure, table, options.figures, "throughput", caption, facts)


def main() -> None:
    """Measure and write everything."""
    options = tyro.cli(Options, description=__doc__)
    torch.set_num_threads(options.threads)
    for path in write(measure(options), options):
        if path.suffix in {".md", ".pdf"}:
            print(f"  {path}")


if __name__ == "__main__":
    run_command(main)
