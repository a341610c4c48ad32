"""The commands and their options, as tyro reads them (no torch here)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from sharpness.request import Request

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
class Probe(Request):
    """Measure the sharpness of a checkpoint: prints a table, and writes records (probes.jsonl) and a figure per probe.

    sharpness probe resnet.pt --model timm:resnet18,num_classes=10 --data folder:images,size=224 --out results
    """

    checkpoint: tyro.conf.Positional[Path]
    """A run folder, a .safetensors or torch file, an index of shards, or a Hugging Face folder."""
    out: Annotated[Path | None, Arg(metavar="DIR")] = None
    """Folder for records and figures, made if it is not there; by default the run folder itself."""


@dataclass(frozen=True, kw_only=True)
class Compare(Request):
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
class Stress(Request):
    """Which measures move when weights are rescaled and no output changes? (Dinh et al. 2017.)"""

    checkpoint: tyro.conf.Positional[Path]
    """A checkpoint as for `sharpness probe`."""
    out: Annotated[Path, Arg(metavar="DIR")]
    """Folder for the results and the figure, made if it is not there."""
    alpha: Annotated[float, Arg(metavar="A")] = 4.0
    """The factor; a power of two rescales without rounding."""
    rescaling: Annotated[str | None, Arg(metavar="NAME")] = None
    """Which weights, as `--rescaling list` names them; by default the first pair of layers."""


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


Command = (
    Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Probe, tyro.conf.subcommand("probe")]
    | Annotated[Compare, tyro.conf.subcommand("compare")]
    | Annotated[Stress, tyro.conf.subcommand("stress")]
    | Annotated[Probes, tyro.conf.subcommand("probes")]
    | Annotated[Models, tyro.conf.subcommand("models")]
    | Annotated[Datasets, tyro.conf.subcommand("datasets")]
)
