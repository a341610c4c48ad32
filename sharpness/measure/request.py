"""The options that all commands that measure share (no torch here)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

Arg = tyro.conf.arg


@dataclass(frozen=True, kw_only=True)
class Request:
    """The model, the data, the loss, and how they are evaluated."""

    model: Annotated[str | None, Arg(metavar="SPEC")] = None
    """f1, timm:NAME, torchvision:NAME, hf:FOLDER or package.module:factory, options behind commas, as in
    timm:resnet18,num_classes=10. A run folder or Hugging Face folder needs none."""
    data: Annotated[str | None, Arg(metavar="SPEC")] = None
    """A name of `sharpness datasets`, npz:FILE, folder:DIR, hf:DIR, text:FILE or package.module:factory. A run folder
    needs none."""
    loss: Annotated[str | None, Arg(metavar="SPEC")] = None
    """cross_entropy, square, mse, model (the model's own) or package.module:function; by default what suits the data,
    and of a run folder what it was trained on."""
    count: Annotated[str | None, Arg(metavar="SPEC")] = None
    """What the loss's mean over a batch divides by, where cutting a batch cannot tell: package.module:function."""
    coupled: bool = False
    """The loss is one of whole batches (contrastive, Dice): they are never cut, and are part of what is measured."""
    freeze: bool = False
    """Store one pass over data that change, and one draw of a network's random numbers, and measure those."""
    training: bool = False
    """The network computes its loss in training mode only, as detectors do; BatchNorm and dropout stay as stated."""
    fused: bool = False
    """Values and gradients with fused attention, which saves memory and has no second derivative: for curvature give
    --NAME.backend finite_difference beside it."""
    weight_decay: Annotated[str | None, Arg(metavar="MU")] = None
    """Add the L2 penalty (MU/2) |w|^2 that was trained with; `config`: the one in a run folder's config."""
    examples: Annotated[int | None, Arg(metavar="N")] = None
    """Measure on a random subset of so many examples; which ones depends on --seed."""
    batch_size: Annotated[int | None, Arg(metavar="N")] = None
    """Examples per pass: 100, or a run folder's own number; with --norm batch part of what is measured."""
    seed: Annotated[int | None, Arg(metavar="N")] = None
    """Seeds the subset of the examples: 0, or a run folder's own; probes have theirs (--eigenvalues.seed 1)."""
    norm: Literal["auto", "frozen", "batch", "recalibrate"] = "auto"
    """BatchNorm with its running statistics (frozen), those of each batch (batch), or running ones recomputed on the
    data at the checkpoint (recalibrate). On lines and planes between checkpoints auto recomputes them at each point."""
    dtype: Literal["float32", "float64"] = "float32"
    """Precision of the whole evaluation."""
    parameters: Annotated[str | None, Arg(metavar="GLOB,GLOB")] = None
    """Measure over these parameters only, such as 'layer4.*'; the others stay as they are."""
    key: Annotated[str | None, Arg(metavar="NAME")] = None
    """Which of several sets of weights in the (first) file, as the error that asks for it lists them."""
    ema: bool = False
    """Take the averaged (EMA) weights of the (first) file."""
    strict: bool = True
    """Refuse weights that do not fit name by name; --no-strict ignores extra ones, keeps initial values of others."""
    allow_global: tyro.conf.UseAppendAction[Annotated[tuple[str, ...], Arg(metavar="NAME")]] = ()
    """A class that you expect a pickled file to name: like every other it stays inert, and it is not listed as such."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""
    data_dir: Annotated[Path | None, Arg(metavar="DIR")] = None
    """A folder that holds the data files, looked at first."""
    seconds: Annotated[float | None, Arg(metavar="S")] = None
    """Stop after so many seconds; the same command goes on from there."""
    json: bool = False
    """Print the records only, one JSON object per line."""


@dataclass(frozen=True, kw_only=True)
class ProbeRequest(Request):
    """The probes, and the one more point that they may need."""

    probes: Annotated[str | None, Arg(metavar="NAME,NAME")] = None
    """Names from `sharpness probes`, separated by commas, or quick (a first answer) or all. Knobs of one: --NAME.KNOB
    VALUE, as in --eigenvalues.k 5; `sharpness probes NAME` lists them. The default is quick; `sharpness stress` takes
    all, and `sharpness track` eigenvalues,critical_sharpness."""
    trained_on: Annotated[str | None, Arg(metavar="SPEC")] = None
    """The data whose gradient gives the direction of critical and directional sharpness, if not --data: critical
    sharpness is then the relative one (Kalra et al. 2026), as of pretraining data under finetuning steps."""
    start: Annotated[Path | None, Arg(metavar="FILE")] = None
    """The weights where training started, for the distance from there; a run folder has its own."""
