"""Curvature operators against dense matrices; operations that autograd cannot differentiate twice; memory; subsets."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from sharpness.curvature import MATRICES, FisherOperator, HessianOperator, curvature_operator, per_layer
from sharpness.curvature.likelihoods import sampled_targets
from sharpness.errors import InputError, RunError
from sharpness.linalg.operators import FunctionOperator, matmat, scaled, shifted, to_dense
from sharpness.loss import Loss
from sharpness.loss.graphs import MissingDerivativeError
from sharpness.loss.square_loss import square_loss
from sharpness.machine.memory import cache_budget, free_memory
from sharpness.measure.guards import check_weights
from tests.cases import CASES, Case, Recurrent, mlp, with_norm
from tests.oracles import dense_empirical_fisher, dense_gauss_newton, dense_hessian, directions, merged

WITH_CRITERION = [name for name, case in CASES.items() if case.criterion is not None]


def build(case: Case, **options: Any) -> tuple[Loss, Any, list[Any]]:
    model, batches = case.build()
    return Loss(model, case.criterion, batches, norm=case.norm, dtype=torch.float64, **options), model, batches


@pytest.mark.parametrize("name", WITH_CRITERION)
def test_gauss_newton_is_the_dense_matrix(name: str) -> None:
    loss, model, batches = build(CASES[name])
    expected, V = dense_gauss_newton(CASES[name], model, batches, loss.weights), directions(loss.layout.size)
    for cache in ("auto", 0):
        G = curvature_operator("gauss_newton", loss, cache=cache)
        ours, again = matmat(G, V), matmat(G, V)
        torch.testing.assert_close(ours, expected @ V, rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(again, ours, rtol=1e-12, atol=1e-13)
        assert float((V * ours).sum(0).min()) > -1e-10  # these criteria are convex in the outputs


@pytest.mark.parametrize(
    "name",
    ["mlp", "mlp, mean squared error", "mlp, square loss", "mlp, class weights", "mlp, ignored class", "attention"],
)
def test_empirical_fisher_is_the_dense_matrix(name: str) -> None:
    loss, model, batches = build(CASES[name])
    expected = dense_empirical_fisher(CASES[name], model, batches, loss.weights)
    torch.testing.assert_close(to_dense(FisherOperator(loss, seed=None)), expected, rtol=1e-9, atol=1e-11)


BINARY = Case(mlp, F.binary_cross_entropy_with_logits, targets="bits")


@pytest.mark.parametrize(
    "case",
    [CASES["mlp"], CASES["mlp, mean squared error"], CASES["mlp, square loss"], BINARY, CASES["mlp, summed squares"]],
)
def test_drawn_fishers_are_empirical_ones_of_drawn_targets_and_tend_to_the_exact_one(case: Case) -> None:
    loss, model, batches = build(case)
    drawn, first = [], 0
    for x, y in batches:
        assert case.criterion is not None
        drawn.append((x, sampled_targets(case.criterion, model(x), y, 3, first, draw=1)))
        first += len(x)
    relabelled = Loss(model, case.criterion, drawn, dtype=torch.float64)
    second = FisherOperator(loss, seed=3, draws=3).drawn(1, 1)
    one = to_dense(second)
    factor = 3 if case in (BINARY, CASES["mlp, mean squared error"]) else 1  # the mean over three draws per example
    torch.testing.assert_close(one, factor * to_dense(FisherOperator(relabelled, seed=None)), rtol=1e-10, atol=1e-12)
    whole = Loss(model, case.criterion, [merged(batches)], dtype=torch.float64)
    torch.testing.assert_close(one, to_dense(FisherOperator(whole, seed=3, draws=1, first_draw=1)))  # any split
    v = torch.randn(loss.layout.size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    values = torch.stack([v @ FisherOperator(whole, draws=1, first_draw=d).matvec(v) for d in range(100)])
    torch.testing.assert_close(values.mean(), v @ FisherOperator(whole, draws=100).matvec(v))
    exact = v @ FisherOperator(whole).matvec(v)
    torch.testing.assert_close(exact, v @ curvature_operator("gauss_newton", whole).matvec(v))
    assert abs(float(values.mean() - exact)) < 4 * float(values.std()) / 100**0.5
    assert float(values.std()) > 0


@pytest.mark.parametrize("case", [BINARY, CASES["mlp, mean squared error"]])
def test_draws_do_not_depend_on_what_counts_as_an_example(case: Case) -> None:
    model, batches = case.build()
    losses = [
        Loss(model, case.criterion, batches, count=count, dtype=torch.float64)
        for count in (None, lambda batch: float(batch[1].numel()))
    ]
    by_examples, by_numbers = (to_dense(FisherOperator(loss, draws=2)) for loss in losses)
    torch.testing.assert_close(by_numbers, by_examples)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_criterion_of_ones_own_may_be_a_mean_or_a_sum(reduction: str) -> None:
    def own(outputs: Any, targets: Any, reduction: str) -> Any:
        return F.cross_entropy(outputs, targets, reduction=reduction)

    model, batches = CASES["mlp"].build()
    ours, theirs = (
        FisherOperator(Loss(model, partial(criterion, reduction=reduction), batches, dtype=torch.float64))
        for criterion in (own, F.cross_entropy)
    )
    torch.testing.assert_close(to_dense(ours), to_dense(theirs))
    assert ours.facts["targets"] == "sum over 3 classes" and theirs.facts["targets"] == "closed form"


class WithPenalty(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 3)

    def forward(self, x: Any) -> Any:
        return self.inner(x), self.inner.weight.square().sum()


@pytest.mark.parametrize("matrix", ["gauss_newton", "fisher", "empirical_fisher"])
def test_an_output_that_the_criterion_takes_apart_is_refused(matrix: str) -> None:
    batch = (torch.randn(6, 4), torch.randn(6, 3))
    loss = Loss(WithPenalty(), lambda outputs, targets: (outputs[0] - targets).square().mean(), [batch])
    with pytest.raises(InputError, match="got tuple, which the criterion is given whole"):
        curvature_operator(matrix, loss).matvec(loss.weights)


EXACT: dict[str, tuple[Any, Any, Any, str]] = {  # layers after the linear one, criterion, that of the logits, how
    "cross-entropy": ((), F.cross_entropy, F.cross_entropy, "closed form"),
    "log-softmax and nll": ((nn.LogSoftmax(1),), F.nll_loss, F.cross_entropy, "closed form"),
    "log-softmax and NLLLoss": ((nn.LogSoftmax(1),), nn.NLLLoss(), F.cross_entropy, "closed form"),
    "a lambda": ((), lambda z, y: F.cross_entropy(z, y), F.cross_entropy, "sum over 3 classes"),
    "nll in a lambda": ((nn.LogSoftmax(1),), lambda z, y: F.nll_loss(z, y), F.cross_entropy, "sum over 3 classes"),
    "squared errors": ((), F.mse_loss, F.mse_loss, "closed form"),
    "square loss": ((), square_loss, square_loss, "closed form"),
    "coins": ((), F.binary_cross_entropy_with_logits, F.binary_cross_entropy_with_logits, "closed form"),
    "probabilities": ((nn.Sigmoid(),), nn.BCELoss(), F.binary_cross_entropy_with_logits, "closed form"),
}


@pytest.mark.parametrize("name", EXACT)
def test_the_fisher_matrix_is_exact_where_there_is_a_closed_form_or_there_are_few_classes(name: str) -> None:
    layers, criterion, of_logits, how = EXACT[name]
    random = torch.Generator().manual_seed(0)
    x = torch.randn(7, 4, dtype=torch.float64, generator=random)
    y = torch.randint(2, (7, 3), generator=random).double() if name in ("coins", "probabilities") else x[:, :3]
    y = torch.randint(3, (7,), generator=random) if of_logits in (F.cross_entropy, square_loss) else y
    linear = nn.Linear(4, 3).double()
    loss = Loss(nn.Sequential(linear, *layers), criterion, [(x[:5], y[:5]), (x[5:], y[5:])], dtype=torch.float64)
    w = loss.weights

    def of_weights(w: Tensor) -> Tensor:  # linear in w and its link canonical: Hessian, Gauss-Newton and Fisher are one
        return of_logits(x @ w[:12].view(3, 4).T + w[12:], y)

    expected: Any = torch.autograd.functional.hessian(of_weights, w)
    fisher = FisherOperator(loss)
    torch.testing.assert_close(to_dense(fisher), expected, rtol=1e-9, atol=1e-12)
    assert fisher.facts["targets"] == how and fisher.draws is None
    G = curvature_operator("gauss_newton", loss)
    same = bool(((to_dense(G) - expected).abs() < 1e-9).all())
    assert same is not bool(G.warnings)  # where it is split elsewhere, or 0, the record says so
    assert ("split" in G.facts) is (name.startswith("log-softmax"))


def test_more_classes_than_are_summed_over_are_drawn() -> None:
    x, y = torch.randn(3, 2, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 100, -100])
    loss = Loss(nn.Linear(2, 101), lambda z, y: F.cross_entropy(z, y), [(x, y)])
    fisher = FisherOperator(loss)
    assert fisher.draws == 16
    fisher.matvec(loss.weights)
    assert fisher.facts["targets"] == "16 draws"


@pytest.mark.parametrize("criterion", [F.l1_loss, lambda z, y: (1 - z).relu().mean(), lambda z, y: z.mean()])
def test_a_gauss_newton_matrix_that_is_zero_says_why(criterion: Any) -> None:
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    G = curvature_operator("gauss_newton", Loss(nn.Linear(4, 3), criterion, [(x, torch.zeros(3, 3))]))
    assert not G.warnings  # not known yet
    assert not G.matvec(torch.ones(15)).any()
    (warning,) = G.warnings
    assert "piecewise linear" in warning


def test_ignored_targets_stay_ignored() -> None:
    drawn = sampled_targets(F.cross_entropy, torch.randn(4, 3, 5), torch.tensor([[-100, 1, 2, 0, -100]] * 4), 0, 0)
    assert drawn.shape == (4, 5) and ((drawn == -100) == torch.tensor([True, False, False, False, True])).all()


def test_drawn_classes_follow_the_predicted_probabilities() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0]], dtype=torch.float64).expand(20_000, 3)
    drawn = sampled_targets(F.cross_entropy, logits, torch.zeros(20_000, dtype=torch.long), 0, 0)
    p = logits[0].softmax(0)
    shares = torch.bincount(drawn, minlength=3) / 20_000
    assert bool(((shares - p).abs() < 4 * (p * (1 - p) / 20_000).sqrt()).all())


@pytest.mark.parametrize(
    ("criterion", "message"),
    [
        (lambda output, target: F.cross_entropy(output, target) ** 2, "sums to"),
        (lambda output, target: output[target > 0].sum(), "one example at a time"),
        (F.nll_loss, "log-probabilities"),
        (nn.CrossEntropyLoss(label_smoothing=0.1), "label smoothing"),
        (partial(F.cross_entropy, weight=torch.ones(3, dtype=torch.float64)), "class weights"),
        (CASES["mlp, ignored class"].criterion, "ignore_index"),
    ],
)
def test_the_fisher_matrix_is_of_likelihoods_only(criterion: Any, message: str) -> None:
    model, batches = CASES["mlp"].build()
    loss = Loss(model, criterion, batches[:1], dtype=torch.float64)
    with pytest.raises(InputError, match=message):
        FisherOperator(loss).matvec(loss.weights)


def test_matrices_of_outputs_need_a_criterion_and_known_names() -> None:
    loss, _, _ = build(CASES["own loss over tokens"])
    with pytest.raises(InputError, match="criterion apart"):
        curvature_operator("gauss_newton", loss)
    with pytest.raises(InputError, match="hessian"):
        curvature_operator("hesian", loss)
    with pytest.raises(InputError, match="exact"):
        HessianOperator(loss, backend="exactly")
    with pytest.raises(InputError, match="cache"):
        HessianOperator(loss, cache="all")


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("cache", ["auto", 0, 3000])
def test_blocks_are_their_columns(matrix: str, cache: int | str) -> None:
    loss, _, _ = build(CASES["convolution"])
    A = curvature_operator(matrix, loss, cache=cache)
    V = torch.randn(loss.layout.size, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    separate = torch.stack([curvature_operator(matrix, loss).matvec(v) for v in V.T], dim=1)
    torch.testing.assert_close(matmat(A, V), separate, rtol=1e-11, atol=1e-12)


def test_shifted_and_scaled_forms_compose() -> None:
    matrix = torch.tensor([[2.0, 1.0], [1.0, 3.0]], dtype=torch.float64)
    A = FunctionOperator(lambda v: matrix @ v, 2, torch.float64, error=0.5)
    B = scaled(shifted(A, 4.0), -2.0)
    torch.testing.assert_close(to_dense(B), -2 * (matrix + 4 * torch.eye(2, dtype=torch.float64)))
    A.error = 0.75  # read late: it may grow with the products
    assert (B.error, B.size, B.dtype) == (1.5, 2, torch.float64)


class Once(torch.autograd.Function):
    """A function whose author allowed one derivative only."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.tanh()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return g * (1 - ctx.saved_tensors[0].tanh() ** 2)


class Applied(nn.Module):
    """A small network with one function in the middle of it."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.function = nn.Linear(4, 6), nn.Linear(6, 3), function

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(x)))


CENTRES = torch.linspace(-1, 1, 36, dtype=torch.float64).view(6, 6)


class Bag(nn.Module):
    """Sums of embeddings, either by EmbeddingBag or written out."""

    def __init__(self, bag: bool) -> None:
        super().__init__()
        self.table: nn.Module = nn.EmbeddingBag(9, 5, mode="sum") if bag else nn.Embedding(9, 5)
        self.head, self.bag = nn.Linear(5, 3), bag

    def forward(self, x: Tensor) -> Tensor:
        index = (x.abs() * 4).long().clamp(max=8)
        table = self.table(index)
        return self.head(torch.tanh(table if self.bag else table.sum(1)))


def heads(x: Tensor) -> Tensor:
    q = x.view(-1, 1, 3, 2)
    return F.scaled_dot_product_attention(q, q, q).reshape(-1, 6)


def plain_heads(x: Tensor) -> Tensor:
    q = x.view(-1, 1, 3, 2)
    return ((q @ q.mT / 2**0.5).softmax(-1) @ q).reshape(-1, 6)


def recomputed(x: Tensor, reentrant: bool) -> Tensor:
    out = checkpoint(lambda t: torch.tanh(t) ** 2, x, use_reentrant=reentrant)
    assert isinstance(out, Tensor)
    return out


class Recomputed(nn.Module):
    """A block that is recomputed in the backward pass, with weights inside it."""

    def __init__(self, reentrant: bool | None) -> None:
        super().__init__()
        self.first, self.last, self.reentrant = nn.Linear(4, 6), nn.Linear(6, 3), reentrant

    def block(self, x: Tensor) -> Tensor:
        return torch.tanh(self.first(x)) ** 2

    def forward(self, x: Tensor) -> Tensor:
        if self.reentrant is None:
            return self.last(self.block(x))
        return self.last(checkpoint(self.block, x.detach().requires_grad_(), use_reentrant=self.reentrant))


def distances(x: Tensor) -> Tensor:
    return ((x.unsqueeze(1) - CENTRES.to(x)) ** 2).sum(-1).sqrt()


# name: (network with the operation, the same network without it, the backend that must be chosen)
OPERATIONS: dict[str, tuple[Callable[[], Any], Callable[[], Any], str]] = {
    "hardsigmoid": (
        lambda: Applied(F.hardsigmoid),
        lambda: Applied(lambda x: (x / 6 + 0.5).clamp(0, 1)),
        "finite_difference",
    ),
    "cdist": (
        lambda: Applied(lambda x: torch.cdist(x, CENTRES.to(x))),
        lambda: Applied(distances),
        "finite_difference",
    ),
    "embedding bag": (lambda: Bag(True), lambda: Bag(False), "finite_difference"),
    "fused attention": (lambda: Applied(heads), lambda: Applied(plain_heads), "exact"),
    "checkpoint": (lambda: Recomputed(False), lambda: Recomputed(None), "exact"),
    "reentrant checkpoint": (lambda: Recomputed(True), lambda: Recomputed(None), "finite_difference"),
    "compiled": (
        lambda: torch.compile(Applied(torch.tanh), backend="aot_eager"),
        lambda: Applied(torch.tanh),
        "finite_difference",
    ),
    "once differentiable": (lambda: Applied(Once.apply), lambda: Applied(torch.tanh), "finite_difference"),
    "gru": (Recurrent, Recurrent, "exact"),
}


@pytest.mark.filterwarnings("ignore:.*requires_grad=True:UserWarning")
@pytest.mark.parametrize("matrix", ["hessian", "gauss_newton"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_without_a_second_derivative(name: str, dtype: torch.dtype, matrix: str) -> None:
    special, plain, backend = OPERATIONS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        one, two = special().double(), plain().double()
        two.load_state_dict(dict(zip(two.state_dict(), one.state_dict().values(), strict=True)))
        batches = [(torch.randn(size, 4, dtype=torch.float64), torch.randint(3, (size,))) for size in (7, 2)]
    loss = Loss(one, F.cross_entropy, batches, dtype=dtype)
    reference = Loss(two, F.cross_entropy, batches, dtype=torch.float64)
    A = curvature_operator(matrix, loss, 1.3 * loss.weights)  # away from the network's own weights
    B = curvature_operator(matrix, reference, 1.3 * reference.weights)
    for seed in range(3):
        v = torch.randn(A.size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        expected, product = B.matvec(v), A.matvec(v.to(dtype)).double()
        if name == "cdist" and A.backend == "exact":
            backend = "exact"  # torch 2.14 has its second derivative, which is held to the same product
        assert A.backend == backend
        difference = float((product - expected).norm() / v.norm())
        rounding = 100 * torch.finfo(dtype).eps * float(expected.norm() / v.norm())
        allowed = {torch.float64: 1e-6, torch.float32: 0.02}[dtype] * float(expected.norm() / v.norm())
        assert difference <= (allowed if backend == "finite_difference" else rounding)
        assert A.error <= allowed
    assert (A.error > 0) == (backend == "finite_difference")


class Sequences(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.unsqueeze(0).expand(6, -1, -1)).tanh().log_softmax(-1)


def ctc(output: Tensor, target: Tensor) -> Tensor:
    lengths = torch.full((output.shape[1],), 6), torch.ones(len(target), dtype=torch.long)
    return F.ctc_loss(output, target.unsqueeze(1) + 1, *lengths)


def test_a_criterion_without_a_second_derivative_falls_back_too() -> None:
    loss, _, _ = build(Case(Sequences, ctc))
    H, w = HessianOperator(loss), loss.weights
    v = torch.randn(H.size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    product, h = H.matvec(v), 1e-6
    assert H.backend == "finite_difference"
    torch.testing.assert_close(product, (loss.grad(w + h * v) - loss.grad(w - h * v)) / (2 * h), rtol=1e-5, atol=1e-7)
    with pytest.raises(MissingDerivativeError, match="finite_difference"):
        HessianOperator(loss, backend="exact").matvec(v)


@pytest.mark.parametrize("name", ["mlp", "norm, batch statistics", "own loss over tokens"])
def test_finite_differences_on_request_agree_with_autograd(name: str) -> None:
    loss, _, _ = build(CASES[name])
    exact, difference = (to_dense(HessianOperator(loss, backend=backend)) for backend in ("exact", "finite_difference"))
    torch.testing.assert_close(difference, exact, rtol=1e-6, atol=1e-8)


class Hungry:
    """A criterion that runs out of memory above a batch size."""

    def __init__(self, limit: int, error: Callable[[], BaseException]) -> None:
        self.limit, self.error, self.largest = limit, error, 0

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        if len(target) > self.limit:
            raise self.error()
        self.largest = max(self.largest, len(target))
        return F.cross_entropy(output, target, weight=torch.tensor([0.2, 1.0, 3.0], dtype=output.dtype))


ERRORS = [
    lambda: torch.OutOfMemoryError("CUDA out of memory"),
    lambda: MemoryError(),
    lambda: RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: 5 bytes"),
]


def weighted_count(batch: Any) -> float:
    return float(torch.tensor([0.2, 1.0, 3.0], dtype=torch.float64)[batch[1]].sum())


@pytest.fixture
def little_to_search() -> None:
    """Spare what is there by now the searches for garbage after each error."""
    gc.freeze()


@pytest.mark.usefixtures("little_to_search")
@pytest.mark.parametrize(("limit", "error"), [(5, ERRORS[0]), *((2, error) for error in ERRORS), (1, ERRORS[0])])
def test_smaller_batches_where_memory_runs_out_give_the_same_numbers(limit: int, error: Any) -> None:
    model, batches = CASES["mlp"].build()
    hungry, full = Hungry(limit, error), Hungry(99, error)
    small, large = (Loss(model, c, batches, count=weighted_count, dtype=torch.float64) for c in (hungry, full))
    w = small.weights
    assert small.value(w) == pytest.approx(large.value(w), rel=1e-13)
    torch.testing.assert_close(small.grad(w), large.grad(w), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(small.outputs(w), large.outputs(w))
    for matrix in ("hessian", "gauss_newton", "empirical_fisher") if error is ERRORS[0] else ("hessian",):
        fresh = Loss(model, Hungry(limit, error), batches, count=weighted_count, dtype=torch.float64)
        ours, expected = (matmat(curvature_operator(matrix, loss), directions(len(w))) for loss in (fresh, large))
        torch.testing.assert_close(ours, expected, rtol=1e-11, atol=1e-13)
    assert hungry.largest <= limit and small.data.micro_batch_size <= limit


def test_kept_graphs_go_before_the_batch_is_halved() -> None:
    model, batches = CASES["mlp"].build()
    hungry = Hungry(99, ERRORS[0])
    loss = Loss(model, hungry, batches, count=weighted_count, dtype=torch.float64)
    whole = HessianOperator(loss)
    expected = whole.matvec(loss.weights)
    H = HessianOperator(loss, cache=whole.kept_bytes // 2)
    torch.testing.assert_close(H.matvec(loss.weights), expected, rtol=1e-12, atol=1e-14)
    assert 0 < H.kept_bytes < whole.kept_bytes
    hungry.limit = 2  # graphs that are not kept have to be built anew, and do not fit
    torch.testing.assert_close(H.matvec(loss.weights), expected, rtol=1e-12, atol=1e-14)
    assert H.kept_bytes == 0 and loss.data.micro_batch_size == 2


def test_a_batch_that_defines_the_loss_is_not_halved() -> None:
    model, batches = CASES["norm, batch statistics"].build()
    loss = Loss(model, Hungry(4, ERRORS[0]), batches, norm="batch", count=weighted_count, dtype=torch.float64)
    with pytest.raises(RunError, match="another loss"):
        HessianOperator(loss).matvec(loss.weights)
    one = Loss(CASES["mlp"].build()[0], Hungry(0, ERRORS[1]), CASES["mlp"].build()[1], count=weighted_count)
    with pytest.raises(RunError, match=r"one example at a time.*--fused with --NAME\.backend finite_difference"):
        one.value(one.weights)


def test_other_runtime_errors_are_not_taken_for_lack_of_memory() -> None:
    hungry = Hungry(9, lambda: RuntimeError("something else"))
    loss, _, _ = build(replace(CASES["mlp"], criterion=hungry), count=weighted_count)
    hungry.limit = 0
    with pytest.raises(RuntimeError, match="something else"):
        loss.value(loss.weights)
    assert loss.data.micro_batch_size == 5


def test_the_cache_budget_is_a_share_of_free_memory() -> None:
    cpu = torch.device("cpu")
    assert 0 < cache_budget("auto", cpu) <= 0.6 * free_memory(cpu)
    assert cache_budget(123, cpu) == 123


@pytest.mark.parametrize("name", ["mlp", "tied weights", "norm, batch statistics", "unused and frozen"])
def test_a_subset_of_parameters_is_a_block_of_the_whole(name: str) -> None:
    case = CASES[name]
    loss, model, batches = build(case)
    w = 1.1 * loss.weights
    dense = dense_hessian(case, model, batches, w)
    spans = dict(zip(loss.layout.names, torch.arange(len(w)).split(loss.layout.numels), strict=True))
    parts = per_layer(loss, w)
    assert [name for part in parts.values() for name in part.layout.names] == list(loss.layout.names)
    for part in parts.values():
        index = torch.cat([spans[name] for name in part.layout.names])
        torch.testing.assert_close(to_dense(HessianOperator(part)), dense[index][:, index], rtol=1e-8, atol=1e-10)
        assert part.value(part.weights) == pytest.approx(loss.value(w), rel=1e-13)
        torch.testing.assert_close(part.grad(part.weights), loss.grad(w)[index], rtol=1e-12, atol=1e-14)
    chosen = Loss(model, case.criterion, batches, norm=case.norm, dtype=torch.float64, parameters="*weight")
    index = torch.cat([spans[name] for name in spans if name.endswith("weight")])
    at_own = dense_hessian(case, model, batches, loss.weights)
    torch.testing.assert_close(to_dense(HessianOperator(chosen)), at_own[index][:, index], rtol=1e-8, atol=1e-10)


def test_patterns_that_match_nothing_are_refused() -> None:
    loss, model, batches = build(CASES["mlp"])
    with pytest.raises(InputError, match=r"0\.weight, 0\.bias"):
        Loss(model, F.cross_entropy, batches, parameters=["fc*"])
    with pytest.raises(InputError, match="typo"):
        Loss(model, F.cross_entropy, batches, parameters=["0.*", "typo*"])
    with pytest.raises(InputError, match="holds fixed"):
        loss.restricted("0.*").restricted("2.*")


def spoil(model: nn.Module, value: float) -> None:
    with torch.no_grad():
        next(model.parameters())[0, 0] = value


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_losses_and_gradients_that_are_not_finite_are_refused(value: float) -> None:
    model, batches = CASES["mlp"].build()
    loss = Loss(model, F.cross_entropy, batches, dtype=torch.float64)
    w = loss.weights.clone()
    w[3] = value
    with pytest.raises(InputError, match=r"0\.weight \(1 of 20 entries\)"):
        HessianOperator(loss, w)
    bad = [(torch.full_like(x, value), y) for x, y in batches]
    for backend, culprit in (("exact", "loss"), ("finite_difference", r"0\.weight")):
        with pytest.raises(InputError, match=f"finite .*{culprit}"):
            HessianOperator(Loss(model, F.cross_entropy, bad), backend=backend).matvec(loss.weights)
    spiky = Loss(model, lambda z, y: (z - z.detach()).abs().sqrt().mean(), batches)  # infinite slope at 0
    with pytest.raises(InputError, match=r"finite gradients, got NaN or infinity in 0\.weight"):
        HessianOperator(spiky).matvec(loss.weights)
    spoil(model, value)
    with pytest.raises(InputError, match=r"finite weights, got NaN or infinity in 0\.weight"):
        check_weights(Loss(model, F.cross_entropy, batches))


def test_differences_of_gradients_that_are_not_finite_are_refused() -> None:
    model = nn.Linear(4, 3, bias=False)
    nn.init.constant_(model.weight, 1e-9)  # a step goes below 0 on one side only, where the square root has no value
    loss = Loss(model, lambda z, y: z.sqrt().mean(), [(torch.ones(2, 4), torch.zeros(2))])
    with pytest.raises(InputError, match="finite"):
        HessianOperator(loss, backend="finite_difference").matvec(torch.ones(12))


def test_matrices_of_outputs_refuse_a_loss_that_is_not_finite() -> None:
    loss, _, batches = build(CASES["mlp, mean squared error"])
    bad = Loss(loss.model, F.mse_loss, [(x, torch.full_like(y, float("nan"))) for x, y in batches])
    for matrix in ("gauss_newton", "empirical_fisher"):  # the Monte-Carlo Fisher draws its own targets
        with pytest.raises(InputError, match="finite loss"):
            curvature_operator(matrix, bad).matvec(bad.weights)
    linear = Loss(loss.model, lambda z, y: z.mean(), [(x.float(), y.float()) for x, y in batches])
    assert not curvature_operator("gauss_newton", linear).matvec(linear.weights).any()
    soft = Loss(CASES["mlp"].build()[0], F.cross_entropy, [(torch.randn(3, 4), torch.ones(3, 3) / 3)])
    with pytest.raises(InputError, match="class indices"):
        FisherOperator(soft).matvec(soft.weights)


def test_sparse_gradients_are_products_too() -> None:
    def build_one(sparse: bool) -> Loss:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Embedding(7, 3, sparse=sparse), nn.Flatten(), nn.Linear(6, 3)).double()
        x, y = torch.randint(7, (5, 2)), torch.randint(3, (5,))
        return Loss(model, F.cross_entropy, [(x, y)], dtype=torch.float64)

    with torch.random.fork_rng():
        one, two = build_one(True), build_one(False)
    v = torch.ones_like(one.weights)
    torch.testing.assert_close(one.grad(one.weights), two.grad(two.weights))
    ours = HessianOperator(one, backend="auto").matvec(v)
    torch.testing.assert_close(ours, HessianOperator(two).matvec(v), rtol=1e-5, atol=1e-7)


def test_masks_may_hold_infinity() -> None:
    model, batches = CASES["mlp"].build()
    model.register_buffer("mask", torch.full((3, 3), float("-inf")))
    check_weights(Loss(model, F.cross_entropy, batches, dtype=torch.float64))


def test_blocks_by_differences_know_their_error() -> None:
    loss, _, _ = build(CASES["mlp"])
    H, one = (HessianOperator(loss, backend="finite_difference") for _ in range(2))
    V = torch.randn(loss.layout.size, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(H.matmat(V), torch.stack([one.matvec(v) for v in V.T], dim=1))
    assert H.error == one.error > 0


def test_integer_weights_are_refused() -> None:
    model = nn.Linear(4, 3)
    model.weight = nn.Parameter(torch.ones(3, 4, dtype=torch.int8), requires_grad=False)
    model.bias.requires_grad_(False)
    with pytest.raises(InputError, match="int8: measure the network as it was before"):
        Loss(model, F.cross_entropy, [])


def test_reduced_precision_is_off_inside_and_back_afterwards() -> None:
    loss, model, _ = build(CASES["mlp"])
    before, matmul = torch.get_float32_matmul_precision(), torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    seen = []
    try:
        torch.set_float32_matmul_precision("medium")
        watching = Loss(
            model,
            lambda z, y: seen.append(matmul.fp32_precision) or F.cross_entropy(z, y),
            loss.data.batches,
        )
        with torch.autocast("cpu", torch.bfloat16):
            gradient = watching.grad(watching.weights)
        assert set(seen) == {"ieee"}
        assert matmul.fp32_precision == "bf16"
        assert torch.get_float32_matmul_precision() == "medium"
        torch.testing.assert_close(gradient.double(), loss.grad(loss.weights), rtol=1e-5, atol=1e-6)
    finally:
        torch.set_float32_matmul_precision(before)


def test_batch_statistics_see_the_given_batches_in_gauss_newton_too() -> None:
    model, batches = Case(lambda: with_norm(False), F.cross_entropy, norm="batch").build()
    split, whole = (
        Loss(model, F.cross_entropy, b, norm="batch", dtype=torch.float64) for b in (batches, [merged(batches)])
    )
    one, two = (to_dense(curvature_operator("gauss_newton", loss)) for loss in (split, whole))
    assert float((one - two).abs().max()) > 1e-3
