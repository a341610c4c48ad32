"""Products compiled as one program: those of the dense matrix where it is used, and a reason where it is not."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sharpness.curvature import HessianOperator, compiled, curvature_operator
from sharpness.errors import InputError
from sharpness.linalg.operators import matmat, to_dense
from sharpness.loss import Loss
from sharpness.probes import TopEigenvalues
from tests.cases import CASES, Case, slow_but
from tests.oracles import dense_hessian, directions, hessian_times

pytestmark = pytest.mark.dear


class Heads(nn.Module):
    """Attention alone, which takes a third of the time to trace that a layer of a transformer does."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.head = nn.Linear(4, 12), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 2)).permute(2, 0, 3, 1, 4)
        return self.head(F.scaled_dot_product_attention(q, k, v).mean(2).flatten(1))


NETWORKS = CASES | {"heads": Case(Heads, F.cross_entropy, inputs=(3, 4))}
SERVED = [
    "mlp, ignored class",
    "norm, batch statistics",
    "convolution",
    "heads",
    "attention",
    "unused and frozen",
    "own loss over tokens",
]


def clock(ours: float) -> Callable[..., float]:
    """Return a clock by which the program takes ``ours`` seconds in its turn, and autograd 1 second in its."""
    times = iter([ours, 1.0])
    return lambda work, device: next(times)


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the compiler run the program as it was traced, and let that be faster."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    monkeypatch.setattr(compiled, "seconds_of", clock(0.5))


def build(name: str) -> tuple[Loss, Any, list[Any]]:
    case = NETWORKS[name]
    model, batches = case.build()
    batches.insert(1, case.batch(5))  # another one of the first one's shapes
    return Loss(model, case.criterion, batches, norm=case.norm, dtype=torch.float64), model, batches


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("name", slow_but([name for name in SERVED if name != "attention"], SERVED))
def test_the_program_is_the_dense_matrix_on_uneven_batches(name: str) -> None:
    loss, model, batches = build(name)
    H = HessianOperator(loss, backend="compiled")
    V = directions(loss.layout.size)
    expected = hessian_times(NETWORKS[name], model, batches, loss.weights, V)
    torch.testing.assert_close(matmat(H, V), expected, rtol=1e-9, atol=1e-11)
    assert (H.backend, H.facts["compiled"][:3]) == ("compiled", "yes")


def other_counts() -> Loss:
    """Return a loss whose number of terms depends on the data, which a traced program holds fixed."""
    x = torch.randn(12, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    batches = [(x[:6], torch.tensor([1, 1, 0, 0, 1, 0])), (x[6:], torch.tensor([1, 1, 1, 0, 1, 1]))]
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1)).double()

    def criterion(z: Tensor, y: Tensor) -> Tensor:
        return z[y > 0].square().mean()

    return Loss(model, criterion, batches, coupled=True, dtype=torch.float64)


@pytest.mark.usefixtures("uncompiled")
def test_what_differs_from_autograd_is_not_used() -> None:
    loss = other_counts()
    H = HessianOperator(loss, backend="compiled")
    torch.testing.assert_close(to_dense(H), to_dense(HessianOperator(loss)), rtol=1e-10, atol=1e-12)
    assert H.backend == "exact"
    assert H.facts["compiled"].startswith(("no: it does not compile", "no: its product differs"))


def test_without_a_compiler_or_a_gain_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(program: Any, **options: Any) -> Any:
        raise RuntimeError("Failed to find C compiler.\nPlease specify it")

    loss, compiling = build("mlp")[0], torch.compile
    monkeypatch.setattr(torch, "compile", missing)
    result = TopEigenvalues(backend="compiled")(loss)
    assert result.hvp_backend == "exact" and "Failed to find C compiler" in result.details()["compiled"]
    monkeypatch.setattr(torch, "compile", partial(compiling, backend="eager"))
    monkeypatch.setattr(compiled, "seconds_of", clock(2.0))
    slow = TopEigenvalues(backend="compiled")(loss)
    assert slow.details()["compiled"] == "no: it is slower: 2 s for a product where autograd takes 1 s"
    assert slow.value == result.value == TopEigenvalues()(loss).value


def test_only_the_hessian_is_compiled() -> None:
    with pytest.raises(InputError, match="expected the Hessian for backend='compiled', got gauss_newton"):
        curvature_operator("gauss_newton", build("mlp")[0], backend="compiled")


@pytest.mark.slow
def test_the_compiler_makes_the_same_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "seconds_of", clock(0.5))
    loss, model, batches = build("layer norm")
    H = HessianOperator(loss, backend="compiled")
    expected = dense_hessian(CASES["layer norm"], model, batches, loss.weights)
    torch.testing.assert_close(to_dense(H), expected, rtol=1e-9, atol=1e-11)
    if "does not compile" in H.facts["compiled"]:
        pytest.skip(H.facts["compiled"])
    assert H.backend == "compiled"
