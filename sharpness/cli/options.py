"""The commands and their options, as tyro reads them (no torch here)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from sharpness.measure.request import ProbeRequest, Request

Arg = tyro.conf.arg


@dataclass(frozen=True)
class Train:
    """Train one network as a TOML config says; the same command again goes on from where it stopped."""

    config: tyro.conf.Positional[Path]
    """The config file: tables [data], [model] and [training]; every key may be left out."""
    out: Path
    """The run folder to make or to go on with."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""
    data_dir: Annotated[Path | None, Arg(metavar="DIR")] = None
    """A folder that holds the data files, looked at first."""


@dataclass(frozen=True, kw_only=True)
class Probe(ProbeRequest):
    """Measure the sharpness of a checkpoint: prints a table, and writes records (probes.jsonl) and figures.

    sharpness probe resnet.pt --model timm:resnet18,num_classes=10 --data folder:images,size=224 --out results
    """

    checkpoint: tyro.conf.Positional[Path]
    """A run folder, a .safetensors or torch file, an index of shards, or a folder of Hugging Face or PEFT."""
    out: Annotated[Path | None, Arg(metavar="DIR")] = None
    """Folder for records and figures, made if it is not there; by default the run folder itself."""


@dataclass(frozen=True, kw_only=True)
class Predict(Request):
    """What does the curvature say that rounding and drift of the weights will cost, and what do they cost?

    sharpness predict runs/small-batch --examples 500 --bits 8 4 3 --drift 0.01
    """

    checkpoint: tyro.conf.Positional[Path]
    """A checkpoint as for `sharpness probe`."""
    out: Annotated[Path | None, Arg(metavar="DIR")] = None
    """Folder for the records, made if it is not there; by default the run folder itself."""
    bits: Annotated[tuple[int, ...], Arg(metavar="N ...")] = (8, 4, 3)
    """Round each matrix of weights to so many bits, row by row."""
    drift: Annotated[float, Arg(metavar="SHARE")] = 0.01
    """Let the weights move by this share of their length."""
    matrix: Literal["hessian", "gauss_newton"] = "hessian"
    """The curvature: of the loss, or of the network linearised in its weights."""


@dataclass(frozen=True, kw_only=True)
class Advise(Request):
    """Which batch size, and rate, beta2 and warm-up with it, does the noise of the gradient advise?

    sharpness advise runs/text --examples 500 --branches 1 2 4 8
    """

    checkpoint: tyro.conf.Positional[Path]
    """A run folder, or a checkpoint as for `sharpness probe`, with --optimizer and --batch."""
    out: Annotated[Path | None, Arg(metavar="DIR")] = None
    """Folder for the records and advice.csv, made if it is not there; by default the run folder itself."""
    step: Annotated[int | None, Arg(metavar="N")] = None
    """The run's checkpoint of this update, of those that it kept; by default the last one."""
    optimizer: Annotated[str | None, Arg(metavar="NAME")] = None
    """The optimiser that is trained with, such as sgd, momentum or adamw; a run folder has its own."""
    batch: Annotated[int | None, Arg(metavar="N")] = None
    """The batch size that is trained with now; a run folder has its own."""
    rate: Annotated[float | None, Arg(metavar="RATE")] = None
    """The learning rate at that batch size; a run folder has its own."""
    beta2: Annotated[float | None, Arg(metavar="BETA")] = None
    """Adam's beta2 at that batch size; a run folder has its own."""
    warmup: Annotated[float | None, Arg(metavar="N")] = None
    """The examples over which the rate grows at first; a run folder has its own."""
    overhead: Annotated[float, Arg(metavar="SHARE")] = 0.1
    """In perfect scaling is what costs at most this share more examples than the smallest batch."""
    confidence: Annotated[float, Arg(metavar="P")] = 0.95
    """Of all intervals."""
    branches: Annotated[tuple[int, ...], Arg(metavar="K ...")] = ()
    """Train on from the checkpoint with these multiples of its batch, and compare the losses; needs a run folder."""
    window: Annotated[int | None, Arg(metavar="N")] = None
    """The examples that each branch sees; by default the training set, or 16 updates of the largest branch."""
    orders: Annotated[int, Arg(metavar="N")] = 5
    """Train each branch so many times, with other examples in another order."""
    tolerance: Annotated[float, Arg(metavar="NATS")] = 0.01
    """A branch is as good as smaller ones if its loss is at most this above theirs."""


@dataclass(frozen=True, kw_only=True)
class Compare(ProbeRequest):
    """Measure two checkpoints of one architecture side by side, and the loss on the line between them."""

    first: tyro.conf.Positional[Path]
    """The checkpoint at 0, as for `sharpness probe`."""
    second: tyro.conf.Positional[Path]
    """The checkpoint at 1."""
    out: Annotated[Path, Arg(metavar="DIR")]
    """Folder for records and figures, made if it is not there."""
    second_key: Annotated[str | None, Arg(metavar="NAME")] = None
    """As --key, for the second file."""
    second_ema: bool = False
    """As --ema, for the second file."""


@dataclass(frozen=True, kw_only=True)
class Track(ProbeRequest):
    """Measure the checkpoints of a training: one table, CSV and figure over its steps; new ones only, run again.

    sharpness track out/checkpoint-* --model hf:out/checkpoint-500 --data text:corpus.txt --out curvature
    """

    checkpoints: tyro.conf.Positional[Annotated[tuple[Path, ...], Arg(metavar="CHECKPOINT")]]
    """Checkpoints as for `sharpness probe`, run folders (all that they kept), or folders of these, in any order."""
    out: Annotated[Path, Arg(metavar="DIR")]
    """Folder for records, table and figure, made if it is not there."""
    warm: bool = False
    """Begin each eigenvalue with the vector of the step before: fewer products, and no upper bound."""
    ray: Annotated[str | None, Arg(metavar="local|ADDRESS")] = None
    """Measure the checkpoints on a Ray cluster, each as a task: `local` starts one here; --out lies where all nodes see
    it."""


@dataclass(frozen=True, kw_only=True)
class Stress(ProbeRequest):
    """Which measures move when weights are rescaled and no output changes? (Dinh et al. 2017.)"""

    checkpoint: tyro.conf.Positional[Path]
    """A checkpoint as for `sharpness probe`."""
    out: Annotated[Path, Arg(metavar="DIR")]
    """Folder for the results and the figure, made if it is not there."""
    alpha: Annotated[float, Arg(metavar="A")] = 4.0
    """The factor; a power of two rescales without rounding."""
    rescaling: Annotated[str | None, Arg(metavar="NAME")] = None
    """Which weights, as `--rescaling list` names them; by default the first pair of layers."""


@dataclass(frozen=True, kw_only=True)
class Landscape(Request):
    """Measure loss and accuracy on a line, rays, a plane or a curve in weight space, and draw them.

    sharpness landscape random_plane resnet.pt --model timm:resnet18,num_classes=10 --data folder:images --out results
    """

    name: tyro.conf.Positional[Annotated[str, Arg(metavar="NAME")]]
    """One of `sharpness landscapes`; `sharpness landscapes NAME` lists its knobs, given as --NAME.KNOB VALUE."""
    checkpoints: tyro.conf.Positional[Annotated[tuple[Path, ...], Arg(metavar="CHECKPOINT")]]
    """As for `sharpness probe`: the one in the middle or at 0 first, of a trajectory the last one first, or in any
    order where all have steps in their names or content."""
    out: Annotated[Path, Arg(metavar="DIR")]
    """Folder for the record and the figures, made if it is not there."""
    part: Annotated[str, Arg(metavar="I/N")] = "1/1"
    """Measure the I-th of N shares of the points; processes with the same --out put them together."""
    html: bool = False
    """Write a plane as an HTML surface to turn, too: one file that works offline."""


@dataclass(frozen=True)
class Landscapes:
    """List the landscapes, or the knobs of one."""

    name: tyro.conf.Positional[Annotated[str | None, Arg(metavar="NAME")]] = None
    """A landscape, to show what it measures and its knobs."""


@dataclass(frozen=True)
class Probes:
    """List the probes, or the knobs of one."""

    name: tyro.conf.Positional[Annotated[str | None, Arg(metavar="NAME")]] = None
    """A probe, to show what it measures and its knobs."""


@dataclass(frozen=True)
class Models:
    """List the models."""


@dataclass(frozen=True)
class Datasets:
    """List the datasets."""


@dataclass(frozen=True)
class Collect:
    """Write one tidy table over the records of many folders: a row for each number, with what it is of and its cost.

    sharpness collect results runs --csv numbers.csv
    """

    folders: tyro.conf.Positional[Annotated[tuple[Path, ...], Arg(metavar="DIR")]]
    """Folders with results in them or below, as --out of the other commands names them, and run folders."""
    csv: Annotated[Path | None, Arg(metavar="FILE")] = None
    """Write the table as CSV."""
    parquet: Annotated[Path | None, Arg(metavar="FILE")] = None
    """Write the table as Parquet, which needs pyarrow."""


@dataclass(frozen=True)
class Report:
    """Write one HTML page about a checkpoint or a comparison, with figures in it, and a block for a model card.

    sharpness report results
    """

    folder: tyro.conf.Positional[Annotated[Path, Arg(metavar="DIR")]]
    """A folder with the results of one to four checkpoints, as `sharpness probe` and `compare` write it."""
    out: Annotated[Path | None, Arg(metavar="DIR")] = None
    """Folder for report.html and model_card.md; by default that of the results."""


Command = (
    Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Probe, tyro.conf.subcommand("probe")]
    | Annotated[Predict, tyro.conf.subcommand("predict")]
    | Annotated[Advise, tyro.conf.subcommand("advise")]
    | Annotated[Compare, tyro.conf.subcommand("compare")]
    | Annotated[Track, tyro.conf.subcommand("track")]
    | Annotated[Stress, tyro.conf.subcommand("stress")]
    | Annotated[Landscape, tyro.conf.subcommand("landscape")]
    | Annotated[Collect, tyro.conf.subcommand("collect")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[Probes, tyro.conf.subcommand("probes")]
    | Annotated[Landscapes, tyro.conf.subcommand("landscapes")]
    | Annotated[Models, tyro.conf.subcommand("models")]
    | Annotated[Datasets, tyro.conf.subcommand("datasets")]
)
