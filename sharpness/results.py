"""The frame of all probes, and what their results hold besides the number: costs, reasons and conditions."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from sharpness.curvature.product_check import MISSING, NOT_SYMMETRIC, WRONG
from sharpness.loss import Loss
from sharpness.loss.slope import FAILED, NO_DERIVATIVE, UNREACHED
from sharpness.machine.environment import peak_memory, versions
from sharpness.machine.progress import Progress, ending
from sharpness.records import ProbeRecord
from sharpness.records.tables import one_line


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The conditions of one measurement, shared by the results of all probes."""

    seconds: float
    dtype: str
    device: str
    threads: int
    peak_memory: int
    num_examples: int
    batch_sizes: tuple[int, ...]
    norm: str
    weight_decay: float
    parameters: Mapping[str, Any]
    data_sha256: str
    self_check: Mapping[str, str]
    versions: Mapping[str, str]

    @classmethod
    def collect(cls, loss: Loss, started: float) -> Evidence:
        """Return the conditions of a measurement on ``loss`` that began at ``started`` of ``time.perf_counter()``."""
        return cls(
            seconds=time.perf_counter() - started,
            device=str(loss.device),
            threads=torch.get_num_threads(),
            peak_memory=peak_memory(loss.device),
            self_check=loss.self_check(),
            versions=versions(),
            **facts_of(loss),
        )


def of_products(about: str) -> bool:
    """Return whether an entry of a self-check is about the products of a matrix."""
    return about.endswith("products")


def facts_of(loss: Loss) -> dict[str, Any]:
    """Return what says which function a loss is, but for the weights: data, precision, norm, penalty, parameters."""
    return {
        "dtype": str(loss.dtype).removeprefix("torch."),
        "num_examples": loss.num_examples,
        "batch_sizes": tuple(sorted(set(loss.data.batch_sizes), reverse=True)),
        "norm": loss.norm,
        "weight_decay": loss.weight_decay,
        "parameters": {
            "count": loss.layout.size,
            "tensors": len(loss.layout.names),
            "selection": "trainable" if loss.selection is None else list(loss.selection),
        },
        "data_sha256": loss.data_sha256(),
    }


@dataclass(frozen=True)
class ProbeInfo:
    """One row of ``sharpness probes`` or ``landscapes``: the class, the points it is called with, and what it asks."""

    probe: type[Any]
    points: tuple[str, ...]
    description: str


NOT_YET: Any = None
"""The evidence of a result that its frame has not finished."""

MERGED = {"merged": True}
"""The metadata of a field whose own details stand among those of the result, not under the name of the field."""


@dataclass(frozen=True, kw_only=True)
class ProbeResult:
    """The result of a probe: a value, what is proven about it, what it cost, and the conditions.

    ``lower`` and ``upper`` enclose the value with probability ``confidence``; fields that do not apply are ``None``
    and ``reasons`` says why. ``sampling`` is an interval over the choice of examples, with its own confidence: those of
    the loss are then a random sample. What a subclass adds is what only its probe reports.
    """

    # The frame (Probe.__call__) sets probe, knobs and evidence, and where there is none the quantity.
    probe: str = ""
    quantity: str = ""
    knobs: Mapping[str, Any] = field(default_factory=dict)
    value: float | None
    evidence: Evidence = NOT_YET
    lower: float | None = None
    upper: float | None = None
    confidence: float | None = None
    residual: float | None = None
    converged: bool | None = None
    num_hvps: int = 0
    num_gradients: int = 0
    num_forwards: int = 0
    seed: int | None = None
    hvp_backend: str | None = None
    sampling: Mapping[str, Any] | None = None
    warnings: tuple[str, ...] = ()
    reasons: Mapping[str, str] = field(default_factory=dict)

    def __init_subclass__(cls, **options: Any) -> None:
        """Keep the short representation, for which a dataclass would write all its fields, of thousands of numbers."""
        super().__init_subclass__(**options)
        cls.__repr__ = ProbeResult.__repr__

    def __repr__(self) -> str:
        """Return the kind of result, its value with the interval, and what it cost."""
        return f"<{type(self).__name__}: {one_line(self._so_far())}>"

    def _repr_html_(self) -> str:
        """Return the table that notebooks show."""
        return self._so_far()._repr_html_()

    def _so_far(self) -> ProbeRecord:
        """Return the record, of which a result within its probe has no evidence yet."""
        if self.evidence is not NOT_YET:
            return self.to_record()
        names = ("value", "lower", "upper", "confidence", "num_hvps")
        return ProbeRecord(probe="", quantity=self.quantity, **{name: getattr(self, name) for name in names})

    def to_frame(self) -> Any:
        """Return a pandas table with a row for each number, as :func:`sharpness.records.tables.tidy_rows` has it."""
        return self.to_record().to_frame()

    @property
    def seconds(self) -> float:
        """Wall time of the measurement."""
        return self.evidence.seconds

    def details(self) -> dict[str, Any]:
        """Return what only this probe reports, by the names of its fields, as plain types."""
        details = dict[str, Any]()
        for own in fields(self):
            if own.name not in ProbeResult.__dataclass_fields__:
                value = plain(getattr(self, own.name))
                details |= (value or {}) if own.metadata.get("merged") else {own.name: value}
        return details

    def to_record(self, checkpoint_sha256: str | None = None) -> ProbeRecord:
        """Return the record of this result, tied to the weights file that was probed."""
        names = ProbeResult.__dataclass_fields__.keys() - {"evidence", "warnings"}
        reasons = dict(self.reasons)
        if checkpoint_sha256 is None:
            reasons["checkpoint_sha256"] = "the weights did not come from a file"
        for name in ("lower", "upper", "confidence", "residual", "converged", "seed", "hvp_backend"):
            if getattr(self, name) is None:
                reasons.setdefault(name, "does not apply to this probe")
        if self.sampling is None:
            reasons.setdefault("sampling", "no interval over the choice of examples was asked for")
        common = {name: getattr(self, name) for name in names}
        details = self.details()
        if warnings := [*details.get("warnings", ()), *self.warnings]:
            details["warnings"] = warnings
        return ProbeRecord(
            **(common | {"reasons": reasons}),
            **asdict(self.evidence),
            details=details,
            checkpoint_sha256=checkpoint_sha256,
        )


Result = TypeVar("Result", bound=ProbeResult)


def with_self_check(result: Result, checks: Mapping[str, str]) -> Result:
    """Return a result with what the self-check of its loss says against it.

    It says why products are differences, warns of a gradient that is no derivative and of derivatives that could not be
    tested, and takes back the bounds of a matrix that is not symmetric, for which they prove nothing.
    """
    reasons, warnings = dict(result.reasons), list[str]()
    products = [(matrix, said) for matrix, said in checks.items() if of_products(matrix)]
    wrong = [f"{matrix} {said}" for matrix, said in products if WRONG in said or MISSING in said]
    if wrong and result.hvp_backend == "finite_difference":
        reasons["hvp_backend"] = "; ".join(wrong)
    if NO_DERIVATIVE in (slope := checks.get("slope", "")) or UNREACHED in slope:
        warnings.append(f"the gradient {slope}")
    untested = [f"the {what} were {said}" for what, said in products if said.startswith(FAILED)]
    warnings += untested + [f"the gradient was {slope}"] * slope.startswith(FAILED)
    skewed = [f"{matrix} {said}" for matrix, said in products if NOT_SYMMETRIC in said]
    if skewed and result.num_hvps:
        warnings += skewed
        for name in ("lower", "upper", "confidence"):
            reasons[name] = "; ".join(skewed)
        result = replace(result, lower=None, upper=None, confidence=None)
    return replace(result, reasons=reasons, warnings=(*result.warnings, *warnings))


def plain(value: Any) -> Any:
    """Return a value as dicts, lists, numbers and strings; what has ``details()`` is those.

    >>> plain({"edges": (1, 2), "curve": np.array([0.5])})
    {'edges': [1, 2], 'curve': [0.5]}
    """
    if hasattr(value, "details"):
        return value.details()
    if is_dataclass(value):
        return {item.name: plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, Tensor | np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


FEW_EXAMPLES = 400


def few(number: int) -> str:
    """Return that a number of examples is small.

    >>> few(1)
    '1 example is few'
    """
    return f"{number} example{'s are' if number != 1 else ' is'} few"


@dataclass(frozen=True)
class Probe(Generic[Result]):
    """The frame of a probe, a frozen dataclass of knobs: subclasses have a ``name`` and the method ``measure``.

    ``measure(loss, w, *, progress, ...)`` returns the result with what only the formula knows; its further keywords are
    the options of a call. The frame adds the rest: probe, knobs, clock and conditions, and where there is none the
    quantity, which is then the name.
    """

    name: ClassVar[str]
    looks_at_data: ClassVar[bool] = True

    def __call__(
        self, loss: Loss, w: Tensor | None = None, *others: Tensor, progress: Progress | None = None, **options: Any
    ) -> Result:
        """Measure ``loss`` at ``w``, by default its own weights; ``others`` are further points of probes of several.

        Raises what ``measure`` raises. ``progress`` is called with the number of expensive steps done and the most.
        """
        started = time.perf_counter()
        points = self.points(loss, loss.weights if w is None else w, *others)
        with ending(progress) as said:
            result = self.measure(loss, *points, progress=said, **options)
        evidence = Evidence.collect(loss, started)
        evidence = replace(evidence, self_check=self.own_checks(result, evidence.self_check))
        result = replace(
            result,
            probe=self.name,
            quantity=result.quantity or self.name,
            knobs=asdict(self),
            warnings=(*result.warnings, *self.of_few_examples(loss, result)),
            evidence=evidence,
        )
        return with_self_check(result, evidence.self_check)

    def own_checks(self, result: Result, checks: Mapping[str, str]) -> dict[str, str]:
        """Return a self-check with what was found of the products made here alone, whatever the loss made before."""
        made = f"{getattr(self, 'matrix', 'hessian')} products" if result.num_hvps else None
        return {about: said for about, said in checks.items() if about == made or not of_products(about)}

    def points(self, loss: Loss, *points: Tensor) -> tuple[Tensor, ...]:
        """Return the points in the precision and on the device of the loss."""
        return tuple(loss.point(point) for point in points)

    def of_few_examples(self, loss: Loss, result: Result) -> tuple[str, ...]:
        """Return what to say where so few examples tell little about others: means have errors of 1 / sqrt(N)."""
        number = loss.num_examples
        if not self.looks_at_data or number >= FEW_EXAMPLES:
            return ()
        return (
            f"{few(number)}: over others of the same kind a mean differs by about {number**-0.5:.0%} of its spread",
        )

    def measure(self, loss: Loss, w: Tensor, *args: Any, **kwargs: Any) -> Result:
        """Return the result at ``w``, without what the frame adds."""
        raise NotImplementedError
