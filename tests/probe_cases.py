"""Losses with closed forms, for tests of probes: diagonal quadratics and the small network of the table."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from sharpness.loss import Loss
from sharpness.records.tables import tidy_rows
from sharpness.results import ProbeResult
from tests.cases import CASES


class _Weights(nn.Module):
    def __init__(self, w: Tensor) -> None:
        super().__init__()
        self.w = nn.Parameter(w.clone())

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * self.w


def quadratic(h: Tensor, w: Tensor, offset: float = 0.0) -> Loss:
    """Return the loss ``1/2 sum_i h_i w_i^2 + offset`` over one example, at w, in the dtype of w."""

    def criterion(output: Tensor, target: Tensor) -> Tensor:
        return 0.5 * (h.to(output.dtype) * output**2).sum() + offset

    return Loss(_Weights(w), criterion, [(torch.ones(1, len(w)), torch.zeros(1))], dtype=w.dtype)


def noisy_quadratic(h: Tensor, w: Tensor, centres: Tensor, batch_size: int) -> Loss:
    """Return the mean over examples of ``1/2 sum_i h_i (w_i - c_i)^2``, ``centres`` (N, n), in uneven batches."""

    def criterion(output: Tensor, target: Tensor) -> Tensor:
        return 0.5 * (h * (output - target) ** 2).sum(1).mean()

    batches = [(torch.ones_like(part), part) for part in centres.split(batch_size)]
    return Loss(_Weights(w), criterion, batches, dtype=w.dtype)


def matrix_quadratic(hessian: Tensor, *shapes: tuple[int, ...]) -> Loss:
    """Return ``1/2 w^T H w`` as a function of tensors of these shapes, at random weights."""
    generator = torch.Generator().manual_seed(4)
    model = nn.ParameterList(torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pieces = model

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([piece.reshape(-1) for piece in self.pieces]) * x

    def criterion(output: Tensor, target: Tensor) -> Tensor:
        return 0.5 * torch.einsum("ni,ij,nj->n", output, hessian, output).mean()

    size = len(hessian)
    return Loss(Whole(), criterion, [(torch.ones(1, size, dtype=torch.float64), torch.zeros(1))], dtype=torch.float64)


def small_network(name: str = "mlp", dtype: torch.dtype = torch.float64) -> Loss:
    """Return the loss of one of the small networks on its uneven batches."""
    case = CASES[name]
    model, batches = case.build()
    return Loss(model, case.criterion, batches, norm=case.norm, dtype=dtype)


def shows_itself(result: ProbeResult) -> None:
    """Hold a result to a line of text, a table of HTML and one of pandas, with a row for each of its numbers."""
    assert re.fullmatch(rf"<{type(result).__name__}: \w.*, [\d.e-]+ s>", repr(result)), repr(result)
    assert "\n" not in repr(result) and len(repr(result)) < 160
    rows, table = tidy_rows([result.to_record()]), result.to_frame()
    assert table["quantity"].tolist() == [row["quantity"] for row in rows] and len(rows) > 0
    assert table["value"].dropna().tolist() == [row["value"] for row in rows if row["value"] is not None]
    assert result._repr_html_().count("<tr>") == 1 + len(rows)
