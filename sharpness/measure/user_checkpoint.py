"""The checkpoint of a user: specs of file, model, data and loss become a guarded subject."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sharpness.checkpoints import MatchReport, check_fit, load_into, read_checkpoint
from sharpness.checkpoints.formats import recognise
from sharpness.config.spec import names_in
from sharpness.data.batches import Batch
from sharpness.data.sources import load_data
from sharpness.data.user_data import UserData
from sharpness.errors import InputError
from sharpness.loss import Loss
from sharpness.loss.criteria import Criterion, load_loss
from sharpness.loss.eval_mode import batch_norms
from sharpness.machine.users_code import import_object, source_sha256
from sharpness.measure.adapter_folder import FOLDER_OF_BASE, base_of, folder_of_model, with_adapter
from sharpness.measure.guards import Checked, check_before_probing, describe
from sharpness.measure.preconditioner import preconditioner_at
from sharpness.measure.request import Request
from sharpness.measure.subject import Subject, shared_products
from sharpness.measure.weight_decay import weight_decay_of
from sharpness.models.user_model import UserModel, load_model
from sharpness.probes.preconditioned_sharpness import Preconditioner
from sharpness.runs import RunFolder
from sharpness.runs.networks import check_subset, load_run_data, subset_batches

BATCH_SIZE = 100


@dataclass(frozen=True)
class UserCheckpoint:
    """A checkpoint ready to be measured, with what was found on the way: the match of the weights and the guards."""

    path: Path
    run: RunFolder | None
    model: UserModel
    data: UserData
    loss_name: str
    report: MatchReport
    checked: Checked
    subject: Subject

    def lines(self) -> list[str]:
        """Return what a user should see before any number, one sentence each."""
        accuracy = self.checked.evaluation.accuracy
        correct = "" if accuracy is None else f", accuracy {100 * accuracy:.2f} %"
        loss = self.subject.loss
        penalty = f" + {loss.weight_decay:g}/2 |w|^2" if loss.weight_decay else ""
        return [
            str(self.report),
            f"model {self.model.spec}: {loss.layout.size:,} parameters in {len(loss.layout.names)} tensors",
            f"data {self.data.spec}: {loss.num_examples:,} examples{''.join(f'; {note}' for note in self.data.notes)}",
            f"loss {self.loss_name}{penalty}, norm {loss.norm}: {self.checked.evaluation.loss:.6g}{correct}",
        ]


def load_user_checkpoint(
    request: Request, path: Path, device: torch.device, weights: Path | None = None
) -> UserCheckpoint:
    """Return the checkpoint at ``path`` with the model, data and loss of the request, after every guard.

    A run folder brings its own model and data, a Hugging Face folder its model; ``weights`` are another file of the run
    folder than its final one. Raises :class:`InputError` for whatever does not fit.
    """
    run = RunFolder.open(path) if recognise(path) == "run folder" else None
    checkpoint_file = weights or weights_file(path, run)
    checkpoint = read_checkpoint(checkpoint_file, request.allow_global)
    data = _data(request, path, run)
    choice: dict[str, Any] = {"key": request.key, "ema": request.ema, "strict": request.strict}
    adapter = checkpoint.kind == "adapter folder"
    fits = None if adapter else partial(check_fit, checkpoint=checkpoint, **choice)
    model = _model(request, path, run, data, fits)
    if adapter:
        model = with_adapter(request, path, model, checkpoint)
    report = load_into(model.model, checkpoint, **choice)
    network = model.model.to(device)
    batches = named_inputs(network, data.batches)
    trained_on = "cross_entropy" if run is None else run.config().training.loss
    loss_name, criterion = load_loss(request.loss, batches[0], trained_on)
    decay = weight_decay_of(request.weight_decay, run)
    build = _loss_builder(request, network, criterion, batches, decay)
    loss, checked = check_before_probing(build)
    details = {"checkpoint": {"path": str(path), **report.details()}, "model": dict(model.facts)}
    details |= {"data": dict(data.facts), "criterion": loss_name}
    if run is not None:
        details["subset"] = request.examples
    own_p = partial(preconditioner_at, path, loss, report) if run is None else _kept_state(run, checkpoint_file, loss)
    subject = Subject(
        loss=loss,
        checkpoint_sha256=checkpoint.sha256,
        details=details | _details(request, checked),
        identity={"model": model.spec, "criterion": loss_name} | _identity(request, checked),
        sampled=request.examples is not None and loss.num_examples < data.facts["examples_total"],
        preconditioner=own_p,
        shared=shared_products(loss),
    )
    return UserCheckpoint(path, run, model, data, loss_name, report, checked, subject)


def _details(request: Request, checked: Checked) -> dict[str, Any]:
    """Return what the record says of the loss at the checkpoint."""
    details = {"at_checkpoint": describe(checked.evaluation), "warnings": list(checked.warnings)}
    return details | ({"recalibrated": True} if request.norm == "recalibrate" else {})


def _identity(request: Request, checked: Checked) -> dict[str, Any]:
    """Return the loss at the checkpoint, and the hashes of the user's files: code can change under its name.

    A detach that is taken out changes derivatives and not the loss. With them goes how the loss is taken.
    """
    how = {name: True for name in ("coupled", "freeze", "training", "fused") if getattr(request, name)}
    named = {name: getattr(request, name) for name in ("model", "loss", "count")}
    code = {name: sha for name, spec in named.items() if spec is not None and (sha := source_sha256(spec))}
    return {"loss_at_checkpoint": f"{checked.evaluation.loss:.6g}"} | how | ({"code": code} if code else {})


def _kept_state(run: RunFolder, file: Path, loss: Loss) -> Callable[[], Preconditioner] | None:
    """Return what reads P from the optimiser's state that a run kept beside a checkpoint, ``None`` without one."""
    kept = run.optimizer_file(file.stem.removeprefix("checkpoint-"))
    return partial(preconditioner_at, kept, loss, None) if kept.is_file() else None


def weights_file(path: Path, run: RunFolder | None) -> Path:
    """Return the file of weights at a path, a run folder's final one."""
    return path if run is None else run.path / f"{run.final_checkpoint()}.safetensors"


def batch_size_of(request: Request, run: RunFolder | None) -> int:
    """Return the examples per pass that were asked for, else a run folder's own or the usual number."""
    if request.batch_size is not None:
        return request.batch_size
    return BATCH_SIZE if run is None else run.config().data.evaluation_batch_size


def _data(request: Request, path: Path, run: RunFolder | None) -> UserData:
    """Return the data of the request, or a run folder's own training set."""
    if request.data is not None:
        return load_data(
            request.data,
            batch_size=batch_size_of(request, run),
            examples=request.examples,
            seed=request.seed or 0,
            data_dir=request.data_dir,
            tokenizer=_tokenizer(request, path),
            freeze=request.freeze,
            model=folder_of_model(_model_spec(request, path, run)),
        )
    if run is None:
        raise InputError(f"expected --data SPEC to measure {path} on, got none: `sharpness datasets` shows the kinds")
    check_subset(request.examples)
    config = run.config()
    config = replace(config, data=replace(config.data, evaluation_batch_size=batch_size_of(request, run)))
    dataset = load_run_data(config, request.data_dir)
    total, notes, facts = len(dataset.train), ["bytes divided by 255"], dict[str, Any]()
    if config.data.label_noise:
        notes.append(f"labels drawn at random with probability {config.data.label_noise:g}, as in training")
    if request.examples is not None:  # as one batch, as the studies measure subsets
        seed = run_seed(request, run)
        notes.append(f"{request.examples} of {total} drawn with seed {seed}, as one batch")
        facts |= {"subset_seed": seed}
    batches = subset_batches(config, dataset.train, request.examples, run_seed(request, run))
    facts |= {"spec": config.data.name, "examples": request.examples or total, "examples_total": total}
    return UserData(config.data.name, batches, dataset.num_classes, dataset.input_shape, tuple(notes), facts)


def run_seed(request: Request, run: RunFolder) -> int:
    """Return the seed of the subset: the one that was asked for, else a run folder's own."""
    return run.config().training.seed if request.seed is None else request.seed


def _tokenizer(request: Request, path: Path) -> Path | None:
    """Return the folder of a Hugging Face model, where its tokenizer usually lies too."""
    if (folder := folder_of_model(request.model)) is not None:
        return folder
    if path.is_dir() and recognise(path) == "adapter folder" and not (path / "tokenizer_config.json").is_file():
        path = base_of(request, path)
    return path if path.is_dir() else None


def _model_spec(request: Request, path: Path, run: RunFolder | None) -> str | None:
    """Return the spec of the network: the one of the request, of a run folder's config or of a folder with a model."""
    if request.model is not None:
        return request.model
    if run is not None:
        config = run.config().model
        return f"{config.name},norm={config.norm}"
    if not path.is_dir():
        return None
    base = base_of(request, path) if recognise(path) == "adapter folder" else path
    return f"{FOLDER_OF_BASE}{base}" if base.is_dir() else None


def _model(
    request: Request, path: Path, run: RunFolder | None, data: UserData, fits: Callable[[nn.Module], None] | None
) -> UserModel:
    """Return the network of the request or the folder; its shapes are held against the file before it is built."""
    text = _model_spec(request, path, run)
    if text is None:
        raise InputError(
            f"expected --model SPEC for the weights in {path}, got none: `sharpness models` shows the kinds"
        )
    return load_model(text, data.input_shape, data.num_classes, fits=fits)


def named_inputs(model: nn.Module, batches: Sequence[Batch]) -> Sequence[Batch]:
    """Return pairs as the dicts that Hugging Face's models take, for those models; anything else as it is."""
    name = getattr(model, "main_input_name", None)
    pairs = isinstance(batches[0], list | tuple) and len(batches[0]) == 2 and isinstance(batches[0][0], Tensor)
    if not isinstance(name, str) or not pairs:
        return batches
    return [{name: inputs, "labels": targets} for inputs, targets in batches]


def _loss_builder(
    request: Request, model: nn.Module, criterion: Criterion | None, batches: Sequence[Batch], weight_decay: float
) -> Callable[[], Loss]:
    """Return the function that makes the loss of the request; its statistics recomputed first where asked."""
    norm = request.norm
    if norm == "auto":
        norm = "batch" if any(module.running_mean is None for module in batch_norms(model)) else "frozen"
    parameters = None if request.parameters is None else names_in(request.parameters, "parameters")
    options: dict[str, Any] = {"parameters": parameters, "dtype": getattr(torch, request.dtype)}
    options |= {"weight_decay": weight_decay, "training": request.training}
    options |= {"coupled": request.coupled, "freeze": request.freeze, "fused": request.fused}
    if request.count is not None:
        options["count"] = import_object(request.count, "a count of a batch")

    def build() -> Loss:
        loss = Loss(model, criterion, batches, norm=norm, **options)
        return loss.with_fixed_statistics(loss.weights)  # recalibrated once, they are then as fixed as any others

    return build
