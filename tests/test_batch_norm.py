"""BatchNorm in closed form against torch's own second derivative, written out on uneven batches in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from sharpness.curvature import GaussNewtonOperator, HessianOperator
from sharpness.linalg.operators import matmat, to_dense
from sharpness.loss import Loss
from sharpness.loss.batch_norm import closed_form_norms
from sharpness.loss.eval_mode import batch_norms
from tests.oracles import directions

SIZES = (5, 3, 2)


class OwnForward(nn.BatchNorm1d):
    """A subclass that does more than torch's."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + 0.3 * torch.sin(input)


class ChannelsLast(nn.Module):
    """Images of two channels whose memory runs over the channels first."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.layer(x).contiguous(memory_format=torch.channels_last)).tanh().mean(3)


class Differentiating(nn.Module):
    """A network whose output has its own derivative in it, so that products need a fourth one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            z = self.last(self.norm(self.first(x)).tanh())
            (slope,) = torch.autograd.grad(z[:, 0].sum(), x, create_graph=True)
        return z + 0.5 * slope[:, :3] ** 2


def flat(norm: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), norm, nn.ReLU(inplace=True), nn.Linear(5, 3))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "vectors": (lambda: flat(nn.BatchNorm1d(5)), (4,)),
    "no weights": (lambda: flat(nn.BatchNorm1d(5, affine=False)), (4,)),
    "cumulative": (lambda: flat(nn.BatchNorm1d(5, momentum=None)), (4,)),
    "subclass": (lambda: flat(OwnForward(5)), (4,)),
    "twice": (lambda: nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)), (4,)),
    "sequences": (
        lambda: nn.Sequential(nn.Conv1d(2, 3, 2), nn.BatchNorm1d(3), nn.Tanh(), nn.Flatten(), nn.Linear(9, 3)),
        (2, 4),
    ),
    "images": (
        lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.GELU(), nn.MaxPool2d(2), nn.Flatten()),
        (1, 5, 4),
    ),
    "channels last": (lambda: nn.Sequential(ChannelsLast(), nn.Flatten(), nn.Linear(6, 3)), (1, 3, 4)),
    "volumes": (
        lambda: nn.Sequential(nn.Conv3d(1, 2, 2), nn.BatchNorm3d(2), nn.Softplus(), nn.Flatten(), nn.Linear(16, 3)),
        (1, 2, 3, 5),
    ),
}


def build(name: str) -> tuple[nn.Module, list[Any]]:
    make, shape = NETWORKS.get(name, (Differentiating, (4,)))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make().double()
        for key, tensor in [*model.named_buffers(), *model.named_parameters()]:
            if key.endswith("running_var") or tensor.dim() == 1:
                tensor.data.uniform_(0.5, 2.0)
        batches = [(2 + torch.randn(n, *shape, dtype=torch.float64), torch.randint(2, (n,))) for n in SIZES]
        return model, batches


def dense(model: nn.Module, batches: list[Any], w: Tensor, *, training: bool) -> Tensor:
    """Return the Hessian of the weighted mean by torch's own double backward."""
    shapes = {name: p.shape for name, p in model.named_parameters()}
    model.train(training)

    def value(w: Tensor) -> Tensor:
        pieces = torch.split(w, [shape.numel() for shape in shapes.values()])
        state = {name: piece.view(shape) for (name, shape), piece in zip(shapes.items(), pieces, strict=True)}
        state |= {name: buffer.clone() for name, buffer in model.named_buffers()}
        losses = [F.cross_entropy(functional_call(model, state, (x,)), y, reduction="sum") for x, y in batches]
        return torch.stack(losses).sum() / sum(SIZES)

    hessian = torch.autograd.functional.hessian(value, w)
    assert isinstance(hessian, Tensor)
    return hessian


@pytest.mark.parametrize("norm", ["batch", "frozen"])
@pytest.mark.parametrize("name", NETWORKS)
def test_products_are_those_of_the_dense_matrix(name: str, norm: str) -> None:
    model, batches = build(name)
    loss = Loss(model, F.cross_entropy, batches, norm=norm, dtype=torch.float64)
    H = HessianOperator(loss, backend="exact")
    expected = dense(model, batches, loss.weights, training=norm == "batch")
    rounding = 1e-11 * float(expected.abs().max())  # two examples of nearly one value have a large second derivative
    V = directions(loss.layout.size)
    torch.testing.assert_close(matmat(H, V), expected @ V, rtol=1e-10, atol=5 * rounding)
    torch.testing.assert_close(loss.hvp(loss.weights, V[:, 0]), expected @ V[:, 0], rtol=1e-10, atol=5 * rounding)


def in_graph(name: str, *, norm: str = "batch") -> bool:
    """Return whether the layers of a network take their second derivative in closed form."""
    model, batches = build(name)
    model.train(norm == "batch")
    with closed_form_norms(batch_norms(model)):
        node, names = model(batches[0][0]).sum().grad_fn, set[str]()
    stack = [node]
    while stack:
        if (node := stack.pop()) is not None:
            names.add(node.name())
            stack += [following for following, _ in node.next_functions]
    return "_BatchNormFunctionBackward" in names


@pytest.mark.parametrize("name", NETWORKS)
def test_plain_layers_are_in_closed_form_and_others_are_left_alone(name: str) -> None:
    assert in_graph(name) is in_graph(name, norm="frozen") is (name != "subclass")


@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_every_part_of_the_second_derivative(training: bool, weights: bool) -> None:
    norm = nn.BatchNorm1d(3, affine=weights).double().train(training)
    x = torch.randn(4, 3, 2, dtype=torch.float64, requires_grad=True)
    parameters = tuple(torch.rand(3, dtype=torch.float64, requires_grad=True) for _ in norm.parameters())

    def function(x: Tensor, *parameters: Tensor) -> Tensor:
        state = dict(zip(("weight", "bias"), parameters, strict=False)) | {
            k: b.clone() for k, b in norm.named_buffers()
        }
        with closed_form_norms([norm]):
            return functional_call(norm, state, (x,))

    assert torch.autograd.gradcheck(function, (x, *parameters))
    assert torch.autograd.gradgradcheck(function, (x, *parameters))


@pytest.mark.parametrize("norm", ["batch", "frozen"])
def test_a_network_that_differentiates_inside_gets_its_higher_derivatives(norm: str) -> None:
    model, batches = build("derivatives inside")
    loss = Loss(model, F.cross_entropy, batches, norm=norm, dtype=torch.float64)
    w, step = loss.weights, 1e-5  # torch's own higher derivatives are wrong on batch statistics
    steps = step * torch.eye(len(w), dtype=torch.float64)
    differences = torch.stack([(loss.grad(w + e) - loss.grad(w - e)) / (2 * step) for e in steps])
    H = HessianOperator(loss, backend="exact")
    torch.testing.assert_close(to_dense(H), differences, rtol=1e-5, atol=1e-6 * float(differences.abs().max()))


def test_hooks_statistics_and_errors_are_torchs_and_the_layer_is_as_before() -> None:
    torch.manual_seed(0)
    x, seen = torch.randn(6, 3), list[int]()
    kinds: list[dict[str, Any]] = [{}, {"momentum": None}, {"track_running_stats": False}, {"affine": False}]
    for options in kinds:
        ours, theirs = nn.BatchNorm1d(3, **options), nn.BatchNorm1d(3, **options)
        ours.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
        with closed_form_norms([ours]):
            assert all(torch.equal(ours(scale * x), theirs(scale * x)) for scale in (1, 2))
            for norm in (ours, theirs):
                with pytest.raises(ValueError, match="more than 1 value per channel"):
                    norm(x[:1])
        for (_, a), (_, b) in zip(ours.named_buffers(), theirs.named_buffers(), strict=True):
            assert torch.equal(a, b)
        assert "forward" not in vars(ours)
    assert seen == [6] * 8


def test_it_is_as_exact_as_torchs_far_from_zero_and_keeps_no_more() -> None:
    torch.manual_seed(0)
    batches = [(torch.randn(n, 6), torch.randint(3, (n,))) for n in (20, 11)]
    first, norm, last = nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Linear(16, 3)
    nn.init.constant_(first.bias, 30.0)  # of about 50 standard deviations
    model, own = (nn.Sequential(first, each, nn.Tanh(), last) for each in (norm, LeftAlone(norm)))
    kinds = ((model, torch.float32), (own, torch.float32), (own, torch.float64))
    losses = [Loss(each, F.cross_entropy, batches, norm="batch", dtype=dtype) for each, dtype in kinds]
    v = torch.randn(losses[0].layout.size)
    for operator in (HessianOperator, GaussNewtonOperator):
        matrices = [operator(loss) for loss in losses]
        ours, torchs, exact = (H.matvec(v).double() for H in matrices)
        assert (ours - exact).norm() < 5 * (torchs - exact).norm() + 1e-5 * exact.norm()
        assert matrices[0].kept_bytes <= 1.1 * matrices[1].kept_bytes


class LeftAlone(nn.Module):
    """Torch's own BatchNorm on the parameters of a layer, called as a function."""

    def __init__(self, norm: nn.BatchNorm1d) -> None:
        super().__init__()
        self.weight, self.bias = norm.weight, norm.bias

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, None, None, self.weight, self.bias, training=True)
