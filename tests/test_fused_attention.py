"""Gradients with fused attention: used where one derivative will do, and products by differences of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

from scripts.benchmarks import big_models, rows
from scripts.benchmarks.rows import Job
from sharpness.curvature import GaussNewtonOperator, HessianOperator
from sharpness.linalg.operators import to_dense
from sharpness.loss import Loss
from sharpness.measure.user_checkpoint import load_user_checkpoint
from sharpness.probes import TopEigenvalues, Trace
from tests.test_given import CPU, as_request

TOKENS, LENGTH, WIDTH, HEADS = 5, 6, 4, 2


class Attentive(nn.Module):
    """One layer of causal attention over tokens, which notes whether torch may take its fused kernels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.qkv = nn.Embedding(TOKENS, WIDTH), nn.Linear(WIDTH, 3 * WIDTH)
        self.head = nn.Linear(WIDTH, TOKENS)
        self.seen = list[bool]()

    def forward(self, tokens: Tensor) -> Tensor:
        self.seen.append(torch.backends.cuda.flash_sdp_enabled())  # of the kernels for CPUs too
        parts = self.qkv(self.embedding(tokens)).unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        mixed = scaled_dot_product_attention(parts[0], parts[1], parts[2], is_causal=True)
        return self.head(mixed.transpose(1, 2).flatten(2)).transpose(1, 2)


def attentive() -> nn.Module:
    return Attentive()


def tokens() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    whole = torch.randint(TOKENS, (5, LENGTH + 1), generator=generator)
    return [(part[:, :-1], part[:, 1:]) for part in whole.split([3, 2])]


def loss_of(dtype: torch.dtype, fused: bool) -> tuple[Loss, Attentive]:
    model = Attentive()
    return Loss(model, cross_entropy, tokens(), fused=fused, dtype=dtype), model


@pytest.fixture(scope="module")
def dense() -> dict[str, Tensor]:
    """The Hessian and the Gauss-Newton matrix in float64, by autograd with plain attention, from their definitions."""
    loss, model = loss_of(torch.float64, False)
    model = model.double()
    x, y = (torch.cat(parts) for parts in zip(*tokens(), strict=True))
    names, shapes = loss.layout.names, loss.layout.shapes

    def outputs(w: Tensor) -> Tensor:
        pieces = [p.view(s) for p, s in zip(w.split(loss.layout.numels), shapes, strict=True)]
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            return torch.func.functional_call(model, dict(zip(names, pieces, strict=True)), (x,))

    def value(z: Tensor) -> Tensor:
        return cross_entropy(z, y)

    w: Any = loss.weights
    z = outputs(w)
    jacobian: Any = torch.autograd.functional.jacobian(outputs, w)
    curved: Any = torch.autograd.functional.hessian(value, z)
    j, m = jacobian.reshape(z.numel(), -1), curved.reshape(z.numel(), -1)
    hessian: Any = torch.autograd.functional.hessian(lambda v: value(outputs(v)), w)
    return {"hessian": hessian, "gauss_newton": j.T @ m @ j}


def test_gradients_take_the_fused_kernels_and_second_derivatives_the_plain_ones(dense: dict[str, Tensor]) -> None:
    (plain, model), (fused, other) = (loss_of(torch.float64, each) for each in (False, True))
    assert not any(model.seen)
    other.seen.clear()
    torch.testing.assert_close(fused.grad(fused.weights), plain.grad(plain.weights), rtol=1e-12, atol=1e-14)
    assert fused.value(fused.weights) == pytest.approx(plain.value(plain.weights), rel=1e-13)
    assert other.seen and all(other.seen)
    other.seen.clear()
    exact = to_dense(HessianOperator(fused.without_checks_of_derivatives(), backend="exact"))
    assert other.seen and not any(other.seen)
    torch.testing.assert_close(exact, dense["hessian"], rtol=1e-9, atol=1e-12)
    other.seen.clear()
    HessianOperator(fused.without_checks_of_derivatives(), backend="finite_difference").matvec(fused.weights)
    assert other.seen and all(other.seen)


@pytest.mark.parametrize("kind", [HessianOperator, GaussNewtonOperator])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_by_differences_are_those_of_the_dense_matrix(
    dense: dict[str, Tensor], kind: Any, dtype: torch.dtype
) -> None:
    loss, _ = loss_of(dtype, True)
    operator = kind(loss, backend="finite_difference")
    truth = dense[operator.matrix]
    found = to_dense(operator).double()
    columns = (found - truth).norm(dim=0)
    # The error that the operator measured on a few products is of the size of that of all.
    assert 0 < operator.error < (1e-2 if dtype == torch.float32 else 1e-5) * float(truth.norm())
    assert float(columns.max()) < 10 * operator.error


def test_the_interval_is_wider_by_the_measured_error_and_holds_the_true_eigenvalue(dense: dict[str, Tensor]) -> None:
    truth = float(torch.linalg.eigvalsh(dense["hessian"])[-1])
    loss, _ = loss_of(torch.float32, True)
    for seed in range(3):
        result = TopEigenvalues(backend="finite_difference", seed=seed)(loss)
        error = result.details()["hvp_error"]
        assert result.hvp_backend == "finite_difference" and error > 0
        assert result.lower is not None and result.upper is not None and result.lower <= truth <= result.upper
        assert result.upper - result.lower >= 2 * error
    trace = Trace(backend="finite_difference")(loss)
    assert trace.lower is not None and trace.upper is not None
    assert trace.lower <= float(dense["hessian"].trace()) <= trace.upper


def test_it_is_asked_for_on_the_command_line_and_part_of_what_a_record_is_of(tmp_path: Path) -> None:
    torch.save(Attentive().state_dict(), tmp_path / "w.pt")
    x, y = (torch.cat(parts).numpy() for parts in zip(*tokens(), strict=True))
    np.savez(tmp_path / "data.npz", x=x, y=y)
    options = [str(tmp_path / "w.pt"), "--model", "tests.test_fused_attention:attentive"]
    options += ["--data", "tests.test_fused_attention:tokens", "--loss", "cross_entropy"]
    found = {fused: load_user_checkpoint(*as_request(options, fused=fused), CPU).subject for fused in (False, True)}
    assert found[True].loss.fused and found[True].identity["fused"] and "fused" not in found[False].identity
    assert found[True].loss.data_sha256() == found[False].loss.data_sha256()


@pytest.mark.dear
def test_the_benchmark_measures_a_small_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    monkeypatch.setattr(big_models, "PRODUCTS", 3)
    jobs = [
        Job("prepare", "small", "writing", 1, 1),
        Job("passes", "small", "fused, 64 tokens", 1, 1),
        Job("eigenvalue", "small", "fused, 32 tokens", 1, 1),
        Job("passes", "small", "fused, 64 tokens", 2, 1),
        Job("eigenvalue", "small", "fused, 64 tokens", 2, 1),
    ]
    assert set(jobs) <= set(big_models.Options(size="small", threads=1).jobs())
    kept = rows.measure(jobs, tmp_path / "rows.jsonl", lambda job: rows.row_of(job, tmp_path, big_models.measure))
    assert [kept[number]["reasons"] for number in (0, 1, 3)] == [{}, {}, {}]
    written, passed, solved, *both = kept
    weights = 300 * 32 + 64 * 32 + 2 * (12 * 32**2 + 13 * 32) + 2 * 32  # embeddings, two layers, the last norm
    assert 2 * weights < written["base_bytes"] < 2 * weights + 8192  # bfloat16, and a header
    assert passed["num_parameters"] == 2 * 8 * (32 + 96)
    for each in (passed, both[0]):
        steps = [entry["step"] for entry in each["entries"]]
        assert steps == ["reading and looking", "gradient", "product by differences"]
    for each in (solved, both[1]):
        assert each["backend"] == "finite_difference" and each["lower"] <= each["eigenvalue"] <= each["upper"]
        assert each["products"] == 3 and each["error"] > 0
    two, one = (big_models.loss_of(jobs[number], tmp_path) for number in (3, 1))
    assert [len(piece.batch["input_ids"]) for piece in two.data.micro_batches()] == [1, 1]
    second = {name: tokens[1:] for name, tokens in big_models.sequences(2, 64).items()}
    other = Loss(one.model, None, [second], fused=True)
    mean = (one.value(one.weights) + other.value(one.weights)) / 2
    assert two.value(two.weights) == pytest.approx(mean, rel=1e-6)
    files = big_models.render(kept, tmp_path / "out")
    assert {file.name for file in files} >= {"benchmark.md", "passes.csv", "eigenvalue.csv"}
    text = (tmp_path / "out" / "benchmark.md").read_text()
    assert "bfloat16" in text and "| small | fused, 64 tokens | 2 | gradient |" in text
