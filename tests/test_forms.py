"""Any forward and any output: batches of every form, outputs of every kind, derivatives inside, complex weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import grad, vmap
from torch.nn import functional as F

import sharpness as sh
from sharpness.errors import InputError
from sharpness.loss import Loss
from sharpness.vectors import assign, flatten

GENERATOR = torch.Generator().manual_seed(0)
A, B, C = (torch.randn(9, 3, generator=GENERATOR) for _ in range(3))
Y = torch.arange(9) % 2
CUTS = (slice(0, 5), slice(5, 9))


class TwoInputs(nn.Module):
    def __init__(self, wrap: Callable[[Tensor], Any] = lambda z: z) -> None:
        super().__init__()
        self.first, self.last, self.wrap = nn.Linear(3, 4), nn.Linear(4, 2), wrap

    def forward(self, a: Tensor, b: Tensor, scale: float = 1.0) -> Any:
        return self.wrap(self.last(torch.tanh(self.first(a) * self.first(b))) * scale)


class OwnLoss(TwoInputs):
    def forward(self, a: Tensor, b: Tensor, y: Tensor) -> Any:  # type: ignore[override]
        return self.wrap(F.cross_entropy(self.last(torch.tanh(self.first(a) * self.first(b))), y))


@dataclass
class Outputs:
    logits: Tensor
    hidden: Tensor


class Physics(nn.Module):
    """u' + u for a network u of one variable, its derivative taken inside the forward pass."""

    def __init__(self, functional: bool) -> None:
        super().__init__()
        self.net, self.functional = nn.Sequential(nn.Linear(1, 6), nn.Tanh(), nn.Linear(6, 1)), functional

    def forward(self, t: Tensor) -> Tensor:
        if self.functional:
            return vmap(grad(lambda z: self.net(z.view(1, 1)).squeeze()))(t.view(-1)).view(-1, 1) + self.net(t)
        t = t.detach().requires_grad_()
        u = self.net(t)
        return torch.autograd.grad(u.sum(), t, create_graph=True)[0] + u


class Spectral(nn.Module):
    """One layer of a Fourier neural operator: complex weights between two transforms."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, dtype=torch.cfloat))

    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.irfft(torch.fft.rfft(x) * self.weight, n=4)


class Detector(nn.Module):
    """Gives a dict of losses in training mode, boxes otherwise; with BatchNorm and dropout inside."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.head, self.drop = nn.BatchNorm1d(3), nn.Linear(3, 4), nn.Dropout(0.5)

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None) -> Any:
        found = [self.drop(self.head(self.norm(image))).mean(0) for image in images]
        if not self.training:
            return [{"boxes": boxes} for boxes in found]
        assert targets is not None
        errors = [((z - t["boxes"]) ** 2).sum() for z, t in zip(found, targets, strict=True)]
        number = sum(len(t["boxes"]) for t in targets)
        return {"loss_boxes": torch.stack(errors).sum() / number, "loss_size": 0 * errors[0]}


class Graphs:
    """A batch of rings of three nodes, as libraries of graphs make them."""

    def __init__(self, number: int, seed: int) -> None:
        generator, nodes = torch.Generator().manual_seed(seed), torch.arange(3 * number)
        self.x = torch.randn(3 * number, 3, generator=generator)
        self.edge_index = torch.stack([nodes, nodes.view(number, 3).roll(1, 1).reshape(-1)])
        self.batch, self.num_graphs = nodes // 3, number
        self.y = torch.randint(2, (number,), generator=generator)


class GraphNetwork(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, graphs: Any) -> Tensor:
        hidden = torch.tanh(self.first(graphs.x))
        hidden = hidden.index_add(0, graphs.edge_index[1], hidden[graphs.edge_index[0]])
        pooled = torch.zeros(graphs.num_graphs, 4, dtype=hidden.dtype)
        return self.last(pooled.index_add(0, graphs.batch, hidden))


def cut(batch: Callable[[slice], Any]) -> list[Any]:
    return [batch(piece) for piece in CUTS]


PAIRED = {
    "a pair of inputs": cut(lambda s: ((A[s], B[s]), Y[s])),
    "lists, as loaders stack them": cut(lambda s: [[A[s], B[s]], Y[s]]),
    "three entries": cut(lambda s: (A[s], B[s], Y[s])),
    "a dict with labels": cut(lambda s: {"a": A[s], "b": B[s], "labels": Y[s]}),
    "a dict of inputs and targets": cut(lambda s: ({"b": B[s], "a": A[s]}, Y[s])),
}


@pytest.mark.parametrize("name", PAIRED)
def test_networks_of_two_inputs_take_every_form_of_batch(name: str) -> None:
    torch.manual_seed(0)
    model = TwoInputs()
    loss = Loss(model, F.cross_entropy, PAIRED[name], dtype=torch.float64)
    logits = model.double()(A.double(), B.double())
    evaluation = loss.evaluate(loss.weights)
    assert evaluation.loss == pytest.approx(float(F.cross_entropy(logits, Y).detach()), rel=1e-12)
    assert evaluation.accuracy == pytest.approx(float((logits.argmax(1) == Y).double().mean()))
    assert loss.num_examples == 9 and sh.TopEigenvalues()(loss).upper is not None


@pytest.mark.parametrize("wrap", [lambda z: z, lambda z: {"loss": z}, lambda z: (None, z), lambda z: Outputs(z, z)])
def test_a_models_own_loss_is_found_in_every_output(wrap: Callable[[Tensor], Any]) -> None:
    torch.manual_seed(0)
    if isinstance(wrap(torch.tensor(0.0)), Outputs):
        wrap = lambda z: SimpleNamespace(loss=z, start=None)  # noqa: E731
    model = OwnLoss(wrap)
    for batches in (cut(lambda s: {"a": A[s], "b": B[s], "y": Y[s]}), cut(lambda s: (A[s], B[s], Y[s]))):
        loss, plain = Loss(model, None, batches), OwnLoss()
        plain.load_state_dict(model.state_dict())
        assert loss.value(loss.weights) == pytest.approx(float(plain(A, B, Y).detach()), rel=1e-5)
        assert loss.evaluate(loss.weights).accuracy is None


@pytest.mark.parametrize(
    "wrap", [lambda z: (z, None), lambda z: {"logits": z, "x": z}, lambda z: Outputs(z, z), lambda z: (z, z.sum())]
)
def test_criteria_of_torch_get_the_logits_of_a_structure(wrap: Callable[[Tensor], Any]) -> None:
    torch.manual_seed(0)
    model = TwoInputs(wrap)
    loss, plain = Loss(model, F.cross_entropy, PAIRED["a pair of inputs"]), TwoInputs()
    plain.load_state_dict(model.state_dict())
    assert loss.value(loss.weights) == pytest.approx(float(F.cross_entropy(plain(A, B), Y).detach()), rel=1e-5)
    assert loss.evaluate(loss.weights).accuracy is not None and loss.outputs(loss.weights).shape == (9, 2)


@pytest.mark.parametrize("functional", [False, True])
def test_derivatives_inside_the_forward_pass(functional: bool) -> None:
    torch.manual_seed(0)
    net, t = Physics(functional), torch.linspace(0, 1, 9).view(-1, 1)
    batches = [(t[:5], 0 * t[:5]), (t[5:], 0 * t[5:])]
    loss = Loss(net, F.mse_loss, batches, dtype=torch.float64)
    twin = Physics(functional).double()

    def value(w: Tensor) -> Tensor:
        assign(twin, w)
        return (twin(t.double()) ** 2).mean()

    w, h = loss.weights, 1e-5
    assert loss.value(w) == pytest.approx(float(value(w).detach()), rel=1e-12)
    columns = torch.eye(len(w), dtype=torch.float64)

    def gradient(w: Tensor) -> Tensor:
        return torch.cat([g.reshape(-1) for g in torch.autograd.grad(value(w), list(twin.parameters()))])

    H = torch.stack([(gradient(w + h * e) - gradient(w - h * e)) / (2 * h) for e in columns])
    largest = float(torch.linalg.eigvalsh((H + H.T) / 2)[-1])
    top = sh.TopEigenvalues(rtol=1e-4)(loss)
    assert top.hvp_backend == "exact" and top.value == pytest.approx(largest, rel=1e-4)
    sh.SamSharpness()(loss)
    sh.RandomPlane(num_points=3)(loss, w)
    sh.FisherTrace()(loss)


def test_complex_weights_are_pairs_of_reals() -> None:
    torch.manual_seed(0)
    net, x, y = Spectral(), torch.randn(9, 4), torch.randn(9, 4)
    loss = Loss(net, F.mse_loss, [(x[:5], y[:5]), (x[5:], y[5:])], dtype=torch.float64)

    def value(w: Tensor) -> Tensor:
        weight = torch.complex(*w.view(3, 2).T)
        return F.mse_loss(torch.fft.irfft(torch.fft.rfft(x.double()) * weight, n=4), y.double())

    H = torch.autograd.functional.hessian(value, loss.weights)
    torch.testing.assert_close(sh.to_dense(sh.HessianOperator(loss)), H)
    assert loss.layout.size == 6 and torch.equal(flatten(net).double(), loss.weights)
    assign(net, 2 * loss.weights)
    assert loss.tensors(loss.weights)["weight"].dtype == torch.complex128
    torch.testing.assert_close(flatten(net).double(), 2 * loss.weights)


def test_a_detector_computes_its_loss_in_training_mode_only() -> None:
    torch.manual_seed(0)
    model = Detector().eval()
    images = [torch.randn(n, 3) for n in (4, 3, 5, 2, 6)]
    targets = [{"boxes": torch.randn(n, 4)} for n in (1, 3, 1, 2, 4)]
    batches = [(images[:2], targets[:2]), (images[2:], targets[2:])]
    with pytest.raises(InputError, match="training=True"):
        Loss(model, None, batches)
    loss = Loss(model, None, batches, training=True, dtype=torch.float64)
    one = Loss(model, None, [(images, targets)], training=True, dtype=torch.float64)
    model.double()
    found = [model.head(model.norm(image.double())).mean(0).detach() for image in images]
    errors = sum(float(((z - t["boxes"]) ** 2).sum()) for z, t in zip(found, targets, strict=True))
    assert loss.value(loss.weights) == pytest.approx(errors / 11, rel=1e-12)
    assert one.value(one.weights) == pytest.approx(errors / 11, rel=1e-12) and loss.num_examples == 5
    assert not model.training and loss.data_sha256() == one.data_sha256()


@pytest.mark.parametrize("form", ["objects", "tuples", "dicts"])
def test_batches_of_graphs_are_never_cut(form: str) -> None:
    torch.manual_seed(0)
    model, graphs = GraphNetwork(), [Graphs(4, 1), Graphs(2, 2)]
    values = [float(F.cross_entropy(model(g), g.y).detach()) for g in graphs]
    batches: Any = graphs
    if form != "objects":

        class Spread(GraphNetwork):
            def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor) -> Tensor:  # type: ignore[override]
                together = SimpleNamespace(x=x, edge_index=edge_index, batch=batch, num_graphs=int(batch.max()) + 1)
                return super().forward(together)

        spread = Spread()
        spread.load_state_dict(model.state_dict())
        model, batches = spread, [(g.x, g.edge_index, g.batch, g.y) for g in graphs]
        if form == "dicts":
            names = ("x", "edge_index", "batch", "labels")
            batches = [dict(zip(names, batch, strict=True)) for batch in batches]
    loss = Loss(model, F.cross_entropy, batches, dtype=torch.float64)
    assert loss.value(loss.weights) == pytest.approx((4 * values[0] + 2 * values[1]) / 6, rel=1e-6)
    assert loss.num_examples == 6 and not loss.divisible and sh.TopEigenvalues()(loss).upper is not None


def test_what_the_users_code_raises_is_one_line_with_its_place() -> None:
    with pytest.raises(InputError, match=r"shapes cannot be multiplied .*\(linear\.py:\d+\): check model") as caught:
        Loss(nn.Linear(4, 3), F.cross_entropy, [(torch.randn(5, 7), torch.zeros(5, dtype=torch.long))])
    assert "\n" not in str(caught.value)


def test_legacy_switches_inside_a_forward_pass_are_consistent() -> None:
    class Switching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            with torch.backends.cudnn.flags(enabled=False):
                torch.backends.cuda.matmul.allow_tf32  # noqa: B018
                return self.layer(x)

    torch.manual_seed(0)
    model = Switching()
    loss = Loss(model, F.cross_entropy, cut(lambda s: (A[s], Y[s])))
    assert loss.value(loss.weights) == pytest.approx(float(F.cross_entropy(model(A), Y).detach()), rel=1e-5)


def test_recurrent_networks_on_cuda_are_measured_without_a_clash_of_switches() -> None:
    from sharpness import modes
    from sharpness.loss.eval_mode import plain_recurrence
    from sharpness.machine.precision import full_precision

    # The two contexts are plain switches, so that a clash would show here too.
    with full_precision(), plain_recurrence(nn.LSTM(3, 4), torch.device("cuda")):
        assert not torch.backends.cudnn.enabled
    assert (modes._full_precision, modes._plain_recurrence) == (full_precision, plain_recurrence)
