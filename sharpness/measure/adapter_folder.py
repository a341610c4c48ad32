"""The network of an adapter folder: its base with the base's weights, and the adapter's parameters beside them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from torch import nn

from sharpness.checkpoints import Checkpoint, load_into, read_checkpoint, recognise
from sharpness.checkpoints.adapters import LoraConfig, add_adapter, find_base, has_adapter, read_lora_config, supplied
from sharpness.checkpoints.formats import ADAPTER_CONFIG
from sharpness.checkpoints.wording import naming, shown
from sharpness.errors import InputError
from sharpness.measure.request import Request
from sharpness.models.user_model import UserModel

FOLDER_OF_BASE = "hf:"
SCALING = {"lora_alpha": "alpha", "alpha_pattern": "alphas", "use_rslora": "by_root"}
"""What says how much an adapter counts for, by PEFT's names: the fields of :class:`LoraConfig`."""


def folder_of_model(text: str | None) -> Path | None:
    """Return the folder of a model's spec ``hf:FOLDER``, ``None`` for other specs.

    >>> str(folder_of_model("hf:bert,architecture=BertForMaskedLM")), folder_of_model("f1")
    ('bert', None)
    """
    if text is None or not text.startswith(FOLDER_OF_BASE):
        return None
    return Path(text.removeprefix(FOLDER_OF_BASE).partition(",")[0])


def base_of(request: Request, folder: Path) -> Path:
    """Return where an adapter folder's base lies: the folder of ``--model hf:FOLDER``, else where the adapter says.

    Raises :class:`InputError` where there is none here.
    """
    config = read_lora_config(folder)
    return folder_of_model(request.model) or find_base(folder, config)


def with_adapter(request: Request, folder: Path, model: UserModel, checkpoint: Checkpoint) -> UserModel:
    """Return the base's network with its own weights and the adapter's matrices, for the adapter's weights to go into.

    A network that has the adapter already, as the user's own function makes it with ``get_peft_model``, stays as it is.
    """
    if has_adapter(model.model):
        return model
    config, base = read_lora_config(folder), base_of(request, folder)
    facts = {"base": str(base), "base_sha256": _load_base(request, base, folder, model.model, checkpoint, config)}
    return replace(model, facts={**model.facts, **facts})


def check_same_adapter(request: Request, first: Path, model: UserModel, other: Path) -> None:
    """Raise :class:`InputError` where another adapter folder goes with another scaling or base than the first.

    ``model`` is the network of the first. Where that has the adapter already, it decides both, and no folder does.
    """
    if "base" not in model.facts or recognise(other) != "adapter folder":
        return
    ours, theirs = read_lora_config(first), read_lora_config(other)
    differing = [name for name, field in SCALING.items() if getattr(ours, field) != getattr(theirs, field)]
    base = base_of(request, other)
    if str(base) != model.facts["base"]:
        hashed = read_checkpoint(base, request.allow_global).sha256
        differing += ["base"] * (hashed != model.facts["base_sha256"])
    if differing:
        raise InputError(
            f"expected adapters of one scaling and base, got another {' and '.join(differing)} in {other} than in "
            f"{first}: merge each into its base (merge_and_unload) for a line between them"
        )


def _load_base(
    request: Request, base: Path, folder: Path, model: nn.Module, checkpoint: Checkpoint, config: LoraConfig
) -> str:
    """Load the base's weights and add the adapter; return the hash of the base's file."""
    if recognise(base) not in ("hugging face folder", "safetensors", "torch", "torch legacy", "pickle", "sharded"):
        raise InputError(f"{base}: expected the weights of a base, got a checkpoint of the kind {recognise(base)!r}")
    weights, tensors = read_checkpoint(base, request.allow_global), supplied(checkpoint)
    report = load_into(model, weights, strict=False)
    missing = [name for name in report.missing if name not in tensors]  # a head that was trained whole is not in it
    if request.strict and (missing or report.unexpected):
        raise InputError(
            f"{base}: expected the tensors of the base, got {len(missing)} missing ({shown(missing)}) and "
            f"{len(report.unexpected)} unexpected ({shown(report.unexpected)}): name the network that was adapted with "
            "--model hf:FOLDER,architecture=NAME or package.module:factory, or read what fits with --no-strict"
        )
    with naming(folder / ADAPTER_CONFIG):
        add_adapter(model, tensors, config)
    return weights.sha256
