"""A batch size, with rate, beta2 and warm-up, from measured noise scales: pure rules, each with what it rests on.

Everything that a run was trained with is given as :class:`Settings`; what is not known of it stays out of the advice,
with the reason.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from sharpness.errors import InputError
from sharpness.probes.methods.noise_statistics import Measured
from sharpness.records.tables import frame_of, grid_html

MEASURED, PAPER, CONVENTION = "measured", "paper rule", "convention"
ADAM = ("adam", "adamw")
EUCLIDEAN, ADAMS = "Euclidean", "Adam's"
"""The geometries of the noise scale."""
RULES: Mapping[str, tuple[str, str]] = {
    "sgd": ("linear", f"{PAPER}: with SGD in proportion to the batch (Goyal et al. 2017, arXiv 1706.02677)"),
    "adam": ("sqrt", f"{PAPER}: with Adam as the square root of the batch (Malladi et al. 2022, arXiv 2205.10287)"),
    "other": ("sqrt", f"{CONVENTION}: as with Adam, for want of a rule for this optimiser"),
}

OURS: Mapping[str, tuple[str, str]] = {
    EUCLIDEAN: ("1.2 [0.68, 2.3]", "0.36 [0.20, 0.61]"),
    ADAMS: ("0.060 [0.011, 0.33]", "-0.23 [-0.37, 0.07]"),
}
"""What figures/merrill2025 says of critical batches by branches, by the geometry of the noise scale: the ratio of the
two, and Kendall's tau."""


def rate_rule(optimizer: str) -> tuple[str, str]:
    """Return how the learning rate goes with the batch size, ``linear`` or ``sqrt``, and what that rests on.

    >>> rate_rule("adamw")[0], rate_rule("momentum")[0], rate_rule("muon")[0]
    ('sqrt', 'linear', 'sqrt')
    """
    kind = "adam" if optimizer in ADAM else "sgd" if optimizer in ("sgd", "momentum", "nesterov") else "other"
    return RULES[kind]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings that a run was trained with; ``None`` is what is not known.

    ``learning_rate`` belongs to ``batch_size``, ``beta2`` too; an example has ``tokens`` predictions, and ``warmup`` is
    in examples. Raises :class:`InputError` for numbers that no training has.
    """

    optimizer: str = "sgd"
    batch_size: int = 1
    learning_rate: float | None = None
    beta2: float | None = None
    tokens: int = 1
    warmup: float | None = None

    def __post_init__(self) -> None:
        """Refuse impossible numbers."""
        if self.batch_size < 1 or self.tokens < 1:
            found = f"{self.batch_size} and {self.tokens}"
            raise InputError(f"expected a batch size and tokens of an example of at least 1, got {found}")
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise InputError(f"expected a positive learning rate, got {self.learning_rate}: that of the stated batch")
        if self.beta2 is not None and not 0 < self.beta2 < 1:
            raise InputError(f"expected beta2 between 0 and 1, got {self.beta2}: Adam's default is 0.999")

    @property
    def half_life(self) -> float | None:
        """The tokens in which Adam's second moment halves, ``B tokens ln(1/2) / ln(beta2)``.

        >>> round(Settings(optimizer="adam", batch_size=512, beta2=0.95).half_life, 1)
        6918.9
        """
        if self.beta2 is None:
            return None
        return self.batch_size * self.tokens * math.log(0.5) / math.log(self.beta2)

    def scaled_rate(self, batch_size: float) -> float:
        """Return the rate of another batch by the rule of the optimiser.

        >>> Settings(optimizer="adamw", batch_size=16, learning_rate=0.001).scaled_rate(64)
        0.002
        """
        if self.learning_rate is None:
            raise InputError("expected a learning rate to scale, got none: give that of the stated batch size")
        ratio = batch_size / self.batch_size
        return self.learning_rate * (ratio if rate_rule(self.optimizer)[0] == "linear" else math.sqrt(ratio))

    def scaled_beta2(self, batch_size: float) -> float | None:
        """Return ``beta2^(B' / B)``, at which the second moment remembers as many tokens as before.

        >>> round(Settings(optimizer="adam", batch_size=512, beta2=0.95).scaled_beta2(1), 6)
        0.9999
        """
        return None if self.beta2 is None else self.beta2 ** (batch_size / self.batch_size)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One batch size with all that goes with it, and why; ``updates`` and ``examples`` are relative to the fewest."""

    name: str
    batch_size: int | None
    lower: float | None = None
    upper: float | None = None
    learning_rate: float | None = None
    beta2: float | None = None
    warmup_updates: int | None = None
    updates: float | None = None
    examples: float | None = None
    rests_on: str = ""
    reasons: Mapping[str, str] = field(default_factory=dict)

    def cells(self) -> tuple[str, ...]:
        """Return the texts of the line of a table under :data:`HEADS`."""
        size = "none" if self.batch_size is None else str(self.batch_size)
        interval = "" if self.lower is None and self.upper is None else ends_text(self.lower, self.upper)
        beta2 = "" if self.beta2 is None else f"{self.beta2:.5f}"
        warmup = "" if self.warmup_updates is None else str(self.warmup_updates)
        costs = ["" if each is None else f"{each:.3g} x" for each in (self.updates, self.examples)]
        rate = "" if self.learning_rate is None else f"{self.learning_rate:.3g}"
        return self.name, size, interval, rate, beta2, warmup, *costs


HEADS = ("choice", "batch", "interval", "rate", "beta2", "warm-up", "updates", "examples")


def ends_text(lower: float | None, upper: float | None) -> str:
    """Return an interval in brackets.

    >>> ends_text(21.8, None)
    '[21.8, ?]'
    """
    ends = ("?" if end is None else f"{end:.3g}" for end in (lower, upper))
    return f"[{', '.join(ends)}]"


@dataclass(frozen=True, kw_only=True)
class Advice:
    """The choices, the noise scales, what each column rests on, and what cannot be known from here."""

    settings: Settings
    noise_scales: Mapping[str, Measured]
    confidence: float
    overhead: float
    choices: tuple[Choice, ...]
    rests_on: Mapping[str, str]
    unknown: tuple[str, ...]

    @property
    def chosen(self) -> Choice:
        """The choice that is advised: the branched critical batch where it was measured, else perfect scaling."""
        named = {choice.name: choice for choice in self.choices}
        branched = named.get(BRANCHED)
        return branched if branched is not None and branched.batch_size is not None else named[PERFECT]

    def details(self) -> dict[str, Any]:
        """Return everything as plain types."""
        return {**asdict(self), "advised": self.chosen.name, "unknown": list(self.unknown)}

    @property
    def cells(self) -> list[tuple[str, ...]]:
        """The lines of a table under :data:`HEADS`, the advised one with a star."""
        lines = [(choice, choice.cells()) for choice in self.choices]
        return [(f"{name} *" if choice is self.chosen else name, *others) for choice, (name, *others) in lines]

    @property
    def heads(self) -> tuple[str, ...]:
        """:data:`HEADS` with how sure the intervals are."""
        return tuple(f"interval {100 * self.confidence:g} %" if name == "interval" else name for name in HEADS)

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each choice, with the reasons for what is missing as one text."""
        told = ["; ".join(f"{name}: {why}" for name, why in choice.reasons.items()) for choice in self.choices]
        return [asdict(choice) | {"reasons": text} for choice, text in zip(self.choices, told, strict=True)]

    def to_frame(self) -> Any:
        """Return a pandas table with a row for each choice."""
        return frame_of(self.rows())

    def _repr_html_(self) -> str:
        """Return the table that notebooks show."""
        return grid_html(self.heads, self.cells, "batch size")

    def __repr__(self) -> str:
        """Return what is advised, without what it rests on."""
        return f"<Advice: {self._batch()}>"

    def __str__(self) -> str:
        return f"{self._batch()}; {self.chosen.rests_on}" if self.chosen.batch_size is not None else self._batch()

    def _batch(self) -> str:
        best = self.chosen
        if best.batch_size is None:
            return f"no batch size: {best.reasons['batch_size']}"
        rate = "" if best.learning_rate is None else f", learning rate {best.learning_rate:.3g}"
        beta2 = "" if best.beta2 is None else f", beta2 {best.beta2:.6g}"
        return f"batch {best.batch_size} in {ends_text(best.lower, best.upper)} ({best.name}){rate}{beta2}"


PRESENT, PERFECT, CRITICAL, BRANCHED = "as it is", "perfect scaling", "noise scale", "branches"


def advice(
    settings: Settings,
    noise_scales: Mapping[str, Measured],
    *,
    branched: Measured | None = None,
    overhead: float = 0.1,
    confidence: float = 0.95,
) -> Advice:
    """Return what noise scales, ``Euclidean`` and where there is one ``Adam's``, and branches say of the batch size.

    Steps and examples to a loss are taken to lie on ``S = S_min (1 + B_noise / B)`` and ``E = B S = E_min (1 + B /
    B_noise)`` (McCandlish et al. 2018, arXiv 1812.06162, equation 2.11). The batch still in perfect scaling is the
    largest one that costs at most the share ``overhead`` more examples than the smallest: ``B = overhead B_noise``. At
    the noise scale itself both are twice their least. ``B_noise`` is the Euclidean one, for Adam too, as critical
    batches measured with AdamW go with it and not with the one in Adam's geometry (:data:`OURS`). Branches, in
    examples, count before all of this, as they are training itself.

    >>> scales = {"Euclidean": Measured(400.0, 300.0, 600.0)}
    >>> found = advice(Settings(optimizer="sgd", batch_size=8, learning_rate=0.1), scales)
    >>> print(found)
    batch 40 in [30, 60] (perfect scaling), learning rate 0.5; measured: 0.1 of the noise scale in the Euclidean ...
    """
    check_overhead(overhead)
    scale = noise_scales[EUCLIDEAN]
    law = f"{PAPER} E = E_min (1 + B / B_noise)"
    of = f"{MEASURED}: {{}} the noise scale in the Euclidean geometry, {law}"
    least = Measured(settings.batch_size, None, None)
    choices = [
        _choice(settings, PRESENT, least, scale, f"given; its costs {of.format('by')}"),
        _choice(settings, PERFECT, _times(scale, overhead), scale, of.format(f"{overhead:g} of")),
        _choice(settings, CRITICAL, scale, scale, of.format("at")),
    ]
    if branched is not None:
        choices.append(_choice(settings, BRANCHED, branched, scale, f"{MEASURED}: branches of the run"))
    return Advice(
        settings=settings,
        noise_scales=noise_scales,
        confidence=confidence,
        overhead=overhead,
        choices=tuple(choices),
        rests_on=rests_on(settings),
        unknown=tuple(unknown(settings, branched is not None)),
    )


def check_overhead(overhead: float) -> None:
    """Raise :class:`InputError` for an overhead that no batch keeps."""
    if not overhead > 0:
        raise InputError(f"expected a positive overhead, got {overhead}: 0.1 is a tenth more examples")


def _times(scale: Measured, share: float) -> Measured:
    value, lower, upper = (None if end is None else share * end for end in (scale.value, scale.lower, scale.upper))
    return Measured(value, lower, upper, scale.reason)


def _choice(settings: Settings, name: str, size: Measured, scale: Measured, rests: str) -> Choice:
    """Return a batch size, rounded to whole examples, with the settings and costs that belong to it."""
    reasons = dict[str, str]()
    if size.value is None:
        low = "" if size.lower is None else f"; at least {size.lower:.3g} examples"
        reasons["batch_size"] = f"{size.reason}{low}"
        return Choice(name=name, batch_size=None, lower=size.lower, upper=size.upper, rests_on=rests, reasons=reasons)
    b = max(1, round(size.value))
    if name != PRESENT:
        reasons |= {end: str(size.reason) for end in ("lower", "upper") if getattr(size, end) is None}
    if settings.learning_rate is None:
        reasons["learning_rate"] = "the learning rate of the present batch is not known"
    if settings.beta2 is None:
        reasons["beta2"] = "no beta2 is known"
    if settings.warmup is None:
        reasons["warmup_updates"] = "no warm-up is known"
    if scale.value is None:
        reasons["updates"] = reasons["examples"] = str(scale.reason)
    return Choice(
        name=name,
        batch_size=b,
        lower=size.lower,
        upper=size.upper,
        learning_rate=None if settings.learning_rate is None else settings.scaled_rate(b),
        beta2=settings.scaled_beta2(b),
        warmup_updates=None if settings.warmup is None else math.ceil(settings.warmup / b),
        updates=None if scale.value is None else 1 + scale.value / b,
        examples=None if not scale.value else 1 + b / scale.value,
        rests_on=rests,
        reasons=reasons,
    )


def rests_on(settings: Settings) -> dict[str, str]:
    """Return what each column of the choices rests on, and for Adam the choice of the noise scale."""
    rests = {
        "learning rate": rate_rule(settings.optimizer)[1],
        "warm-up": f"{CONVENTION}: over as many examples as in the run",
    }
    if settings.half_life is not None:
        rests["beta2"] = (
            f"{PAPER}: beta2^(B'/B), so that the second moment halves in {settings.half_life:.4g} tokens as before "
            "(Marek et al. 2025, arXiv 2507.07101); beta1 stays"
        )
    if rests["learning rate"].startswith(PAPER) and rate_rule(settings.optimizer)[0] == "linear":
        rests["learning rate"] += "; well below the noise scale only: beyond it the best rate hardly grows"
    if settings.optimizer in ADAM:
        rests["which noise scale"] = (
            "the Euclidean one counts: critical batches by branches of a small transformer with AdamW "
            f"(figures/merrill2025) were {OURS[EUCLIDEAN][0]} times as large and went with it, Kendall's tau "
            f"{OURS[EUCLIDEAN][1]}; they were {OURS[ADAMS][0]} times the one in Adam's geometry and did not go with "
            f"it, tau {OURS[ADAMS][1]}"
        )
    return rests


def unknown(settings: Settings, branched: bool) -> Iterator[str]:
    """Yield what neither noise scale nor branches can tell."""
    yield (
        "the noise at other times: it grows along training, mostly early, so a batch advised late is too large for "
        "the start."
    )
    if not branched:
        yield (
            "the critical batch: in language models it was much larger than the noise scale (Merrill et al. 2025, "
            f"arXiv 2505.23971), in a small one {OURS[EUCLIDEAN][0]} times as large (figures/merrill2025), which "
            "leaves that open; --branches measures it."
        )
    else:
        yield "whether a branch that has caught up stays so: Merrill et al. 2025 (arXiv 2505.23971) assume it."
    yield (
        "the noise scale of new data, where these examples were trained on: |G| is too small on them, and the scale "
        "too large."
    )
    if settings.optimizer not in ("sgd", "momentum", "nesterov"):
        yield f"whether the law of steps and examples, which is of SGD, holds for {settings.optimizer}."
    yield (
        "seconds per update by batch size, the final loss, what it is on other data, and whether the rule for the rate "
        "holds so far from it: where it matters, try rates around."
    )
