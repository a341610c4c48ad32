"""The advice on a batch size for a run or a loss: what to measure, and the record that keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from sharpness.config import RunConfig
from sharpness.errors import InputError
from sharpness.loss import Loss
from sharpness.machine.environment import choose_device
from sharpness.measure.batch_rules import ADAM, ADAMS, EUCLIDEAN, Advice, Settings, advice
from sharpness.measure.critical_batch import Branches, branched_batch, window_of
from sharpness.measure.request import Request
from sharpness.measure.user_checkpoint import load_user_checkpoint
from sharpness.parsing import parse_json
from sharpness.probes import GradientNoise, PreconditionedNoise
from sharpness.probes.methods.noise_statistics import Measured
from sharpness.probes.preconditioned_sharpness import Preconditioner
from sharpness.records import ProbeRecord
from sharpness.runs import RunFolder
from sharpness.runs.networks import load_run_data
from sharpness.training import schedules
from sharpness.training.checks import examples_of
from sharpness.training.optimizers import WITH_SECOND_MOMENT

LEAST_SHARE = 0.1
"""Of the largest rate, which a checkpoint's has to have for branches: at hardly any rate all batches do alike."""
NAMES = {"gradient_noise": EUCLIDEAN, "preconditioned_noise": ADAMS}


def advise(
    subject: Loss | Path | str,
    *,
    branches: Branches | None = None,
    preconditioner: Tensor | Preconditioner | None = None,
    examples: int | None = None,
    step: int | None = None,
    overhead: float = 0.1,
    confidence: float = 0.95,
    device: str = "auto",
    **settings: Any,
) -> Advice:
    """Return the advice for a loss at its own weights, or for a run folder of the trainer.

    ``settings`` are fields of :class:`sharpness.measure.batch_rules.Settings`, of a run by default its own; ``step`` is
    one of its checkpoints. ``preconditioner`` is Adam's P, or its diagonal of shape (n,)
    (:func:`sharpness.curvature.preconditioned.adam_preconditioner`), by default that of the state that the run kept,
    else from gradients. ``branches`` need a run. Nothing is written; ``sharpness advise`` keeps records. The rules are
    those of :func:`sharpness.measure.batch_rules.advice`. Raises :class:`InputError` for settings that no training has,
    and what the probes raise.

    >>> import torch
    >>> generator = torch.Generator().manual_seed(0)
    >>> x = 1 + 3 * torch.randn(4000, 4, generator=generator, dtype=torch.float64)  # at w = 0: G = -1, Sigma = 9 I
    >>> batch = (torch.ones(4000, 1, dtype=torch.float64), x)
    >>> half_square = lambda output, target: ((output - target) ** 2).sum(1).mean() / 2
    >>> loss = Loss(torch.nn.Linear(1, 4, bias=False), half_square, [batch], dtype=torch.float64)
    >>> found = advise(loss.with_point(torch.zeros(4)), optimizer="sgd", batch_size=32, learning_rate=0.01, overhead=1)
    >>> found.chosen.batch_size, found.choices[0].batch_size
    (10, 32)
    """
    checkpoint = None
    if isinstance(subject, Loss):
        loss, known = subject, Settings(**settings)
        if branches is not None:
            raise InputError("expected a run folder for branches, got a loss: they go on with its training")
    else:
        run, at = RunFolder.open(Path(subject)), choose_device(device)
        checkpoint = checkpoint_of(run, step)
        known = replace(settings_of(run, checkpoint), **settings)
        file = run.path / f"{checkpoint}.safetensors"
        loaded = load_user_checkpoint(Request(examples=examples), run.path, at, file).subject
        loss = loaded.loss
        if preconditioner is None and loaded.preconditioner is not None:
            preconditioner = loaded.preconditioner()
    records = [GradientNoise(confidence=confidence)(loss).to_record()]
    if known.optimizer in ADAM:
        records.append(noise_in_geometry(known, loss, confidence)(loss, preconditioner=preconditioner).to_record())
    if branches is not None and checkpoint is not None:
        found = branched_of(
            RunFolder.open(Path(str(subject))), checkpoint, known, branches, device=choose_device(device)
        )
        records += [] if found is None else [found]
    return advice_of(records, known, overhead, confidence)


def noise_in_geometry(settings: Settings, loss: Loss, confidence: float) -> PreconditionedNoise:
    """Return the probe of the noise as Adam weighs it, P from batches of the run's size where it has no state."""
    size = min(settings.batch_size, loss.num_examples)
    return PreconditionedNoise(batch_size=size if loss.divisible else None, confidence=confidence)


def check_branches(run: RunFolder, checkpoint: str, settings: Settings, knobs: Branches) -> None:
    """Raise :class:`InputError` for branches that do not fit the run, or begin where its rate has next to vanished."""
    largest = schedules.target_rate(run.config(), run.config().training.batch_size)
    if settings.learning_rate is not None and settings.learning_rate < LEAST_SHARE * largest:
        raise InputError(
            f"expected branches from a checkpoint with a learning rate, got {checkpoint} of {run.path}, where it has "
            f"fallen to {settings.learning_rate:.3g} of {largest:g}: give an earlier one with --step, of those that "
            f"keep_every kept, or a --rate"
        )
    knobs.check()
    window_of(knobs, settings, examples_of(run.config())[0])


def branched_of(
    run: RunFolder, checkpoint: str, settings: Settings, knobs: Branches, **options: Any
) -> ProbeRecord | None:
    """Return the record of the branches of a run, from the optimiser's state where it was kept."""
    check_branches(run, checkpoint, settings, knobs)
    state = run.load_optimizer(checkpoint.removeprefix("checkpoint-"))
    return branched_batch(run, checkpoint, settings, knobs, state=state, folder=options.pop("folder", None), **options)


def checkpoint_of(run: RunFolder, step: int | None) -> str:
    """Return the name of the run's checkpoint of an update, by default the final one."""
    if step is None:
        return run.final_checkpoint()
    if step not in (kept := run.kept_steps()):
        raise InputError(f"expected a checkpoint of update {step} in {run.path}, got those of {kept}: name one of them")
    return f"checkpoint-{step}"


def settings_of(run: RunFolder, checkpoint: str) -> Settings:
    """Return what a run was trained with at a checkpoint: its batch size and its rate there.

    At the end of a schedule that falls the rate is that of the last update; ``warmup`` is that of its config.
    """
    config = run.config()
    total, _, _ = examples_of(config)
    facts = parse_json((run.path / f"{checkpoint}.json").read_bytes())
    epoch = float(facts["epoch"])
    size = schedules.batch_size(config, epoch)
    whole = schedules.total_epochs(config, total)
    before = max(0.0, epoch - size / total)
    rate = schedules.learning_rate(config, before, whole, total / size)
    tokens = tokens_of(config)
    return Settings(
        optimizer=config.training.optimizer,
        batch_size=size,
        learning_rate=rate if rate > 0 else None,
        beta2=_beta2(config, size * tokens),
        tokens=tokens,
        warmup=config.schedule.warmup * total or None,
    )


def tokens_of(config: RunConfig) -> int:
    """Return the predictions of an example of a run's data, without reading all of them."""
    few = replace(config, data=replace(config.data, num_train=2, num_test=1, num_validation=0, label_noise=0.0))
    return load_run_data(few).predictions_per_example


def _beta2(config: RunConfig, tokens: int) -> float | None:
    training = config.training
    if training.optimizer not in WITH_SECOND_MOMENT:
        return None
    return training.beta2 if training.beta2_half_life is None else 2 ** (-tokens / training.beta2_half_life)


def advice_of(records: list[ProbeRecord], settings: Settings, overhead: float, confidence: float) -> Advice:
    """Return what records of noise scales and of branches say."""
    scales = {NAMES[record.probe]: measured(record) for record in records if record.probe in NAMES}
    branched = [measured(record) for record in records if record.probe == "branches"]
    return advice(
        settings, scales, branched=branched[0] if branched else None, overhead=overhead, confidence=confidence
    )


def measured(record: ProbeRecord) -> Measured:
    """Return the number of a record with its interval, and why one of them is missing."""
    missing = [name for name in ("value", "upper", "lower") if getattr(record, name) is None]
    reasons = dict.fromkeys(record.reasons.get(name, "no reason recorded") for name in missing)
    reason = "; ".join(reasons) or None
    return Measured(record.value, record.lower, record.upper, reason)


def record_of(found: Advice, noise: ProbeRecord) -> ProbeRecord:
    """Return the advice as a record, with the conditions of the measured noise that it rests on."""
    best = found.chosen
    ends = {"value": best.batch_size, "lower": best.lower, "upper": best.upper}
    reasons = {name: best.reasons.get("batch_size" if name == "value" else name, "see value") for name in ends}
    reasons = {name: reason for name, reason in reasons.items() if ends[name] is None}
    reasons |= dict.fromkeys(("residual", "converged", "sampling", "hvp_backend", "seed"), "an advice has none")
    return replace(
        noise,
        probe="advice",
        quantity="advised_batch_size",
        **{name: None if end is None else float(end) for name, end in ends.items()},
        confidence=found.confidence,
        residual=None,
        converged=None,
        seed=None,
        hvp_backend=None,
        sampling=None,
        num_hvps=0,
        num_gradients=0,
        num_forwards=0,
        knobs={"overhead": found.overhead, "settings": asdict(found.settings)},
        details={**kept_facts(noise.details), **found.details()},
        reasons=reasons,
    )


def kept_facts(details: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a record's details say of the subject, not of its probe."""
    names = ("checkpoint", "model", "data", "criterion", "at_checkpoint", "subset")
    return {name: details[name] for name in names if name in details}
