"""The preconditioned sharpness against dense matrices, Adam's own steps, and the edge of stability itself."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from sharpness.curvature.edges import adam_edge
from sharpness.errors import InputError
from sharpness.probes.preconditioned_sharpness import PreconditionedSharpness, adam_preconditioner
from tests.cases import CASES
from tests.oracles import dense_hessian
from tests.probe_cases import noisy_quadratic, quadratic, small_network

H = torch.tensor([4.0, 1.0, 0.5], dtype=torch.float64)
W = torch.tensor([1.0, -2.0, 0.7], dtype=torch.float64)


@pytest.mark.parametrize("name", ["mlp", "norm, batch statistics"])
def test_it_is_the_top_eigenvalue_of_the_dense_preconditioned_hessian(name: str) -> None:
    case, loss = CASES[name], small_network(name)
    model, batches = case.build()
    p = torch.rand(loss.weights.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.1
    dense = dense_hessian(case, model, batches, loss.weights) / torch.outer(p.sqrt(), p.sqrt())
    result = PreconditionedSharpness(rtol=1e-6)(loss, preconditioner=p)
    assert result.value is not None
    assert result.value == pytest.approx(float(torch.linalg.eigvalsh(dense)[-1]), rel=1e-6)
    assert result.lower is not None and result.upper is not None and result.lower <= result.value <= result.upper
    assert result.edge_learning_rate == pytest.approx(38 / result.value) and result.num_gradients == 0


def test_without_a_state_it_takes_the_mean_square_of_batch_gradients() -> None:
    centres = 0.5 * torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    loss = noisy_quadratic(H, W, centres, 4)
    pairs = [list(pair) for pair in itertools.combinations(range(6), 2)]
    v = torch.stack([(H * (W - centres[pair].mean(0))) ** 2 for pair in pairs]).mean(0)
    exact = float((H / v.sqrt()).max())
    result = PreconditionedSharpness(batch_size=2, num_batches=500)(loss)
    assert result.value == pytest.approx(exact, rel=0.03) and result.num_gradients == 500
    whole = PreconditionedSharpness(batch_size=6, num_batches=1)(loss)
    assert whole.value == pytest.approx(float((H / (H * (W - centres.mean(0))).abs()).max()), rel=1e-6)


def test_the_preconditioner_is_that_of_torchs_adam() -> None:
    w = nn.Parameter(W.clone())
    optimizer = torch.optim.Adam([w], lr=0.01)
    for step in range(1, 4):
        before = w.detach().clone()
        w.grad = H * before
        optimizer.step()
        state = optimizer.state[w]
        p = adam_preconditioner(state["exp_avg_sq"], step)
        torch.testing.assert_close(w.detach(), before - 0.01 * state["exp_avg"] / p, rtol=1e-10, atol=0)


@pytest.mark.parametrize(("factor", "grows"), [(0.97, False), (1.03, True)])
def test_the_edge_is_where_adam_with_a_fixed_preconditioner_turns_unstable(factor: float, grows: bool) -> None:
    p = torch.tensor([2.0, 0.3, 1.0], dtype=torch.float64)
    result = PreconditionedSharpness(rtol=1e-9)(quadratic(H, W), preconditioner=p)
    assert result.edge_learning_rate is not None and result.value == pytest.approx(float((H / p).max()))
    w, m, lr = W.clone(), torch.zeros_like(W), factor * result.edge_learning_rate
    for _ in range(2000):
        m = 0.9 * m + 0.1 * H * w
        w = w - lr * m / p
    assert (float(w.abs().max()) > 1e3) is grows
    assert adam_edge(0.9) == pytest.approx(38)


def bad(p: Tensor | None, message: str, **knobs: float) -> None:
    with pytest.raises(InputError, match=message):
        PreconditionedSharpness(**knobs)(quadratic(H, W), preconditioner=p)  # type: ignore[arg-type]


def test_bad_input_is_refused() -> None:
    bad(torch.ones(2), "shape")
    bad(torch.tensor([1.0, 0.0, 1.0]), "positive finite")
    bad(torch.tensor([1.0, torch.nan, 1.0]), "positive finite")
    bad(None, "beta1", beta1=1.0)
    bad(None, "eps", eps=0.0)
    bad(None, "1 batch", num_batches=0)
    with pytest.raises(InputError, match="1 step"):
        adam_preconditioner(torch.ones(3), 0)
