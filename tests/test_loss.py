"""The loss as a function of a flat vector: its mean, its derivatives, its norm modes, and that it leaves no trace."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from sharpness.curvature import FisherOperator, GaussNewtonOperator, HessianOperator
from sharpness.errors import InputError, RunError
from sharpness.linalg.operators import FunctionOperator, matmat, to_dense
from sharpness.loss import Loss
from sharpness.vectors import assign, flatten
from tests.cases import CASES, Case, mlp, with_norm
from tests.oracles import directions, hessian_times, merged, whole_loss


def assert_equal_to_rounding(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def build(case: Case) -> tuple[Loss, Any, list[Any]]:
    model, batches = case.build()
    return Loss(model, case.criterion, batches, norm=case.norm, dtype=torch.float64), model, batches


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradient_are_those_of_one_whole_batch(name: str) -> None:
    case = CASES[name]
    loss, model, batches = build(case)
    oracle, w = whole_loss(case, model, batches), loss.weights.clone().requires_grad_()
    expected = oracle(w)
    (gradient,) = torch.autograd.grad(expected, w, materialize_grads=True)
    value, ours = loss.value_and_grad(loss.weights)
    assert value == pytest.approx(float(expected.detach()), rel=1e-12)
    assert loss.value(loss.weights) == pytest.approx(value, rel=1e-12)
    assert_equal_to_rounding(ours, gradient)


@pytest.mark.parametrize("name", CASES)
def test_hessian_products_are_those_of_the_dense_hessian(name: str) -> None:
    case = CASES[name]
    loss, model, batches = build(case)
    V = directions(loss.layout.size)
    expected = hessian_times(case, model, batches, loss.weights, V)
    for cache in ("auto", 0):
        H = HessianOperator(loss, cache=cache)
        ours = matmat(H, V)
        again = matmat(H, V)  # from kept graphs, where they are kept
        torch.testing.assert_close(ours, expected, rtol=1e-8, atol=1e-10)
        assert_equal_to_rounding(again, ours)
    torch.testing.assert_close(loss.hvp(loss.weights, V[:, 0]), expected[:, 0], rtol=1e-8, atol=1e-10)


def test_a_partly_kept_cache_gives_the_same_products() -> None:
    model, batches = CASES["mlp"].build()
    passes = list[int]()

    def criterion(output: Tensor, target: Tensor) -> Tensor:
        passes.append(len(target))
        return F.cross_entropy(output, target)

    loss = Loss(model, criterion, batches, dtype=torch.float64)
    whole = HessianOperator(loss)
    expected = to_dense(whole)
    partly = HessianOperator(loss, cache=whole.kept_bytes // 2)
    assert_equal_to_rounding(to_dense(partly), expected)
    assert 0 < partly.kept_bytes < whole.kept_bytes
    built = []
    for H in (whole, partly):
        passes.clear()
        H.matvec(loss.weights)
        built.append(len(passes))
    assert built[0] == 0 < built[1] < len(batches) == 3


@pytest.mark.parametrize("name", ["mlp", "norm, batch statistics", "own loss over tokens"])
def test_gradient_and_hessian_agree_with_finite_differences(name: str) -> None:
    # An error in autograd itself would be in the dense oracle too; differences of values would show it.
    loss, _, _ = build(CASES[name])
    w, h = loss.weights, 1e-5
    v = torch.randn(loss.layout.size, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    slope = (loss.value(w + h * v) - loss.value(w - h * v)) / (2 * h)
    assert float(loss.grad(w) @ v) == pytest.approx(slope, rel=1e-6, abs=1e-9)
    bend = (loss.grad(w + h * v) - loss.grad(w - h * v)) / (2 * h)
    torch.testing.assert_close(loss.hvp(w, v), bend, rtol=1e-5, atol=1e-7)


def test_any_split_of_the_data_gives_the_same_numbers() -> None:
    case = CASES["own loss over tokens"]
    model, batches = case.build()
    whole = merged(batches)
    losses = []
    for sizes in ([9], [5, 3, 1], [1, 8], [2, 2, 2, 2, 1]):
        parts = zip(*(tensor.split(sizes) for tensor in whole.values()), strict=True)
        loss = Loss(model, None, [dict(zip(whole, part, strict=True)) for part in parts], dtype=torch.float64)
        losses.append((loss.value(loss.weights), loss.grad(loss.weights), loss.data_sha256()))
    for value, gradient, digest in losses[1:]:
        assert value == pytest.approx(losses[0][0], rel=1e-12)
        assert_equal_to_rounding(gradient, losses[0][1])
        assert digest == losses[0][2]


def test_accuracy_and_outputs_are_in_the_order_of_the_data() -> None:
    loss, model, batches = build(CASES["mlp"])
    x, y = merged(batches)
    outputs = model(x).detach()
    torch.testing.assert_close(loss.outputs(loss.weights), outputs)
    assert loss.evaluate(loss.weights).accuracy == pytest.approx(float((outputs.argmax(1) == y).double().mean()))
    regression, _, _ = build(CASES["mlp, mean squared error"])
    assert regression.evaluate(regression.weights).accuracy is None


def test_recalibrated_norm_uses_the_statistics_of_the_data_at_each_point() -> None:
    model, batches = Case(lambda: with_norm(True), F.cross_entropy).build()
    x, _ = batches[0]
    loss = Loss(model, F.cross_entropy, batches[:1], norm="recalibrate", dtype=torch.float64)
    w = loss.weights * 1.5
    other = copy.deepcopy(model)
    assign(other, w)
    hidden = other[0](x)  # one batch: its own mean and unbiased variance are the recalibrated statistics
    other[1].running_mean, other[1].running_var = hidden.mean(0).detach(), hidden.var(0).detach()
    other.eval()
    expected = F.cross_entropy(other(x), batches[0][1])
    assert loss.value(w) == pytest.approx(float(expected.detach()), rel=1e-12)
    with pytest.raises(InputError, match="values only"):
        loss.grad(w)


def test_recalibration_weights_uneven_batches_by_their_size() -> None:
    model, batches = Case(lambda: with_norm(True), F.cross_entropy, norm="batch").build()
    loss = Loss(model, F.cross_entropy, batches, norm="recalibrate", dtype=torch.float64)
    other, (x, y) = copy.deepcopy(model), (torch.cat(parts) for parts in zip(*batches, strict=True))
    shares = [len(x) / loss.num_examples for x, _ in batches]
    assert len(set(shares)) > 1
    variances = [share * model[0](x).var(0) for share, (x, _) in zip(shares, batches, strict=True)]
    other[1].running_mean, other[1].running_var = model[0](x).mean(0).detach(), torch.stack(variances).sum(0).detach()
    other.eval()
    expected = float(F.cross_entropy(other(x), y).detach())
    assert loss.value(loss.weights) == pytest.approx(expected, rel=1e-12)


def fingerprint(model: nn.Module) -> tuple[Any, ...]:
    """Everything a probe must leave as it was, copied."""
    state = {key: value.clone() for key, value in model.state_dict().items()}
    flags = [module.training for module in model.modules()]
    grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    return state, flags, [p.requires_grad for p in model.parameters()], grads, torch.get_rng_state()


def assert_unchanged(before: tuple[Any, ...], after: tuple[Any, ...]) -> None:
    for old, new in zip(before, after, strict=True):
        torch.testing.assert_close(old, new, rtol=0, atol=0)


class Interrupting:
    """A criterion that raises from its second call after :meth:`arm` on."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.calls = 0

    def arm(self, error: BaseException | None) -> None:
        self.error, self.calls = error, 0

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        self.calls += 1
        if self.error is not None and self.calls >= 2:
            raise self.error
        return F.cross_entropy(output, target)


CALLS: dict[str, tuple[str, Callable[[Loss], Any]]] = {
    "values": ("frozen", lambda loss: loss.evaluate(loss.weights)),
    "values, batch statistics": ("batch", lambda loss: loss.evaluate(loss.weights)),
    "values, recalibrated": ("recalibrate", lambda loss: loss.evaluate(loss.weights)),
    "gradient": ("batch", lambda loss: loss.grad(loss.weights)),
    "product": ("frozen", lambda loss: loss.hvp(loss.weights, loss.weights)),
    "hessian": ("batch", lambda loss: HessianOperator(loss).matvec(loss.weights)),
    "hessian, differences": ("frozen", lambda loss: HessianOperator(loss, backend=DIFFERENCES).matvec(loss.weights)),
    "gauss-newton": ("frozen", lambda loss: GaussNewtonOperator(loss).matvec(loss.weights)),
    "gauss-newton, differences": (
        "batch",
        lambda loss: GaussNewtonOperator(loss, backend=DIFFERENCES).matvec(loss.weights),
    ),
    "empirical fisher": ("frozen", lambda loss: FisherOperator(loss, seed=None).matvec(loss.weights)),
}
DIFFERENCES = "finite_difference"


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("error", [None, ValueError("stop"), KeyboardInterrupt()])
def test_the_model_is_bit_identical_afterwards(name: str, error: BaseException | None) -> None:
    model, batches = Case(
        lambda: nn.Sequential(*with_norm(True), nn.Dropout(0.5)), F.cross_entropy, norm="batch"
    ).build()
    model.train()
    model[1].eval()
    model[0].weight.grad = torch.ones_like(model[0].weight)
    before = fingerprint(model)
    norm, call = CALLS[name]
    criterion = Interrupting()
    loss = Loss(model, criterion, batches, norm=norm, dtype=torch.float64)
    criterion.arm(error)
    if error is None:
        call(loss)
    else:
        with pytest.raises(type(error)) as caught:
            call(loss)
        assert_unchanged(before, fingerprint(model))  # while the traceback is still alive
        assert caught.value is error
    assert_unchanged(before, fingerprint(model))


class RandomForward(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(F.dropout(input, 0.5, training=True))


def noisy(generator: torch.Generator) -> Any:
    class Augmented(list[Any]):
        def __iter__(self) -> Any:
            return iter([(torch.randn(4, 4, generator=generator), torch.arange(4) % 3)])

    return Augmented()


PAIRS = TensorDataset(torch.randn(10, 4), torch.arange(10) % 3)
CULPRITS: dict[str, tuple[Any, nn.Module, str]] = {
    "dropped batches": (DataLoader(PAIRS, batch_size=3, drop_last=True), mlp(), "drop_last"),
    "shuffling": (DataLoader(PAIRS, batch_size=5, shuffle=True), mlp(), "shuffle"),
    "augmentation": (noisy(torch.Generator().manual_seed(0)), mlp(), "augmentation"),
    "random network": (DataLoader(PAIRS, batch_size=5), RandomForward(4, 3), "dropout"),
}


@pytest.mark.parametrize("name", CULPRITS)
def test_a_loss_that_is_not_one_function_is_refused(name: str) -> None:
    batches, model, culprit = CULPRITS[name]
    with pytest.raises(InputError, match=culprit):
        Loss(model, F.cross_entropy, batches)


@pytest.mark.parametrize("name", CASES)
def test_honest_losses_are_accepted(name: str) -> None:
    checks = build(CASES[name])[0].self_check()
    assert "tested" in checks["mean"] and "agrees with differences" in checks["slope"], checks


class OneBuffer:
    """Fills the same memory with every batch, through NumPy, so that torch does not see it change."""

    def __iter__(self) -> Any:
        inputs, targets = np.empty((6, 4), np.float32), np.empty(6, np.int64)
        for x, y in DataLoader(PAIRS, batch_size=6):
            inputs[: len(x)], targets[: len(y)] = x, y
            yield torch.from_numpy(inputs[: len(x)]), torch.from_numpy(targets[: len(y)])


@pytest.mark.parametrize("freeze", [False, True])
def test_a_loader_may_fill_the_memory_of_its_batches_anew(freeze: bool) -> None:
    model = mlp()
    ours = Loss(model, F.cross_entropy, OneBuffer(), freeze=freeze)  # a cast would copy
    listed = Loss(model, F.cross_entropy, list(DataLoader(PAIRS, batch_size=6)))
    assert ours.value(ours.weights) == listed.value(ours.weights)
    V = directions(ours.layout.size)
    for operator in (HessianOperator, GaussNewtonOperator):
        ours_again, theirs = operator(ours), operator(listed)
        for _ in range(2):  # the second time from kept graphs
            assert torch.equal(matmat(ours_again, V), matmat(theirs, V))


def test_a_generator_is_refused_at_its_second_pass() -> None:
    with pytest.raises(InputError, match="pass a list"):
        Loss(mlp(), F.cross_entropy, ((x, y) for x, y in [(torch.randn(4, 4), torch.arange(4) % 3)]))


def quantised() -> nn.Module:
    model = nn.Linear(2, 2)
    model.weight = nn.Parameter(torch.zeros(2, 2, dtype=torch.int8), requires_grad=False)
    return model.requires_grad_(False)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((mlp(), F.cross_entropy, []), {}, "at least one batch"),
        ((mlp(), F.cross_entropy, [(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))]), {}, "at least one batch"),
        ((mlp(), nn.CrossEntropyLoss(reduction="none"), []), {}, "reduction='none'"),
        ((mlp(), F.cross_entropy, []), {"norm": "frosen"}, "frozen"),
        ((with_norm(False), F.cross_entropy, []), {}, "norm='batch'"),
        ((nn.Sequential(nn.ReLU()), F.cross_entropy, []), {}, "trainable parameters.*measure a network that has"),
        ((nn.Linear(2, 2).requires_grad_(False), F.cross_entropy, []), {}, "trainable parameters.*set requires_grad"),
        ((nn.BatchNorm1d(2).requires_grad_(False), F.mse_loss, []), {}, "trainable parameters.*set requires_grad"),
        ((quantised(), F.mse_loss, []), {}, "weights are int8: measure the network as it was before"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(
    arguments: tuple[Any, ...], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        Loss(*arguments, **options)
    assert "\n" not in str(caught.value)


def test_a_criterion_without_a_mean_is_refused() -> None:
    with pytest.raises(InputError, match="one mean loss"):
        Loss(mlp(), lambda output, target: F.cross_entropy(output, target, reduction="none"), [PAIRS[:]])


def test_an_operation_without_second_derivative_is_named_in_one_line() -> None:
    loss = Loss(nn.Sequential(nn.Linear(4, 3), nn.Hardsigmoid()), F.cross_entropy, [PAIRS[:]])
    with pytest.raises(RunError, match="second derivative") as caught:
        loss.hvp(loss.weights, loss.weights)
    assert "\n" not in str(caught.value)


class ChangesInPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.first(x))
        hidden.add_(1)  # the gradient of tanh needs what was there
        return self.last(hidden)


def test_a_network_that_changes_saved_tensors_in_place_is_refused() -> None:
    loss = Loss(ChangesInPlace(), F.cross_entropy, [PAIRS[:]])
    with pytest.raises(RuntimeError, match="inplace"):
        loss.grad(loss.weights)
    with pytest.raises(RunError, match="in place"):
        HessianOperator(loss).matvec(loss.weights)


def test_a_batch_without_a_counted_target_adds_nothing() -> None:
    x, y = torch.randn(6, 4), torch.tensor([0, 1, 2, -100, -100, -100])
    batches = [(x[:3], y[:3]), (x[3:], y[3:])]
    loss, first = Loss(mlp(), F.cross_entropy, batches), None
    first = Loss(loss.model, F.cross_entropy, batches[:1])
    assert loss.evaluate(loss.weights) == first.evaluate(first.weights)  # accuracy too is over the counted ones
    torch.testing.assert_close(loss.grad(loss.weights), first.grad(first.weights))


def test_what_the_criterion_divides_by_is_read_or_given() -> None:
    x, y = torch.randn(6, 4), torch.tensor([0, 0, 0, 0, 1, 2])
    split, whole = [(x[:4], y[:4]), (x[4:], y[4:])], [(x, y)]
    ignoring = partial(F.cross_entropy, ignore_index=0)
    hidden = lambda output, target: F.cross_entropy(output, target, ignore_index=0)  # noqa: E731
    margin = nn.MultiMarginLoss(weight=torch.tensor([0.1, 1.0, 5.0]))  # divides by N in spite of the weights
    model = mlp()
    for criterion, count in (
        (ignoring, None),
        (hidden, lambda batch: float((batch[1] != 0).sum())),
        (margin, None),
    ):
        one, two = (Loss(model, criterion, batches, count=count) for batches in (whole, split))
        assert one.value(one.weights) == pytest.approx(two.value(two.weights), rel=1e-5)


def test_nested_inputs_count_and_hash_by_their_examples() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, pair: tuple[Tensor, Tensor]) -> Tensor:
            return self.layer(pair[0] * pair[1])

    a, b, y = torch.randn(6, 4), torch.randn(6, 4), torch.randn(6, 3)
    model, whole = Two(), [((a, b), y)]
    split = [((a[:5], b[:5]), y[:5]), ((a[5:], b[5:]), y[5:])]
    one, two = (Loss(model, F.mse_loss, batches, dtype=torch.float64) for batches in (whole, split))
    assert one.value(one.weights) == pytest.approx(two.value(two.weights), rel=1e-12)
    assert one.data_sha256() == two.data_sha256() and one.num_examples == two.num_examples == 6
    other = Loss(model, F.mse_loss, [((a, -b), y)])
    assert other.data_sha256() != one.data_sha256()


def test_tensors_of_a_criterion_follow_the_dtype() -> None:
    x, y = torch.randn(6, 4), torch.tensor([0, 0, 1, 1, 2, 2])
    weight = torch.tensor([0.2, 1.0, 3.0])
    model = mlp()
    module = Loss(model, nn.CrossEntropyLoss(weight=weight), [(x, y)], dtype=torch.float64)
    function = Loss(model, partial(F.cross_entropy, weight=weight), [(x, y)], dtype=torch.float64)
    assert module.value(module.weights) == pytest.approx(function.value(function.weights), rel=1e-12)
    assert weight.dtype == torch.float32


def test_summed_losses_add_up_over_batches() -> None:
    model, batches = CASES["mlp, summed"].build()
    summed, mean = (
        Loss(model, c, batches, dtype=torch.float64) for c in (CASES["mlp, summed"].criterion, F.cross_entropy)
    )
    assert summed.value(summed.weights) == pytest.approx(9 * mean.value(mean.weights), rel=1e-12)
    torch.testing.assert_close(summed.grad(summed.weights), 9 * mean.grad(mean.weights))


def test_later_training_does_not_change_a_loss() -> None:
    case = CASES["unused and frozen"]
    loss, model, _ = build(case)
    before = loss.value(loss.weights)
    with torch.no_grad():
        model.frozen.weight.mul_(3)
        model.used.weight.mul_(3)
    assert loss.value(loss.weights) == before


def test_a_loss_linear_in_the_weights_has_a_zero_hessian() -> None:
    loss = Loss(nn.Linear(4, 3), lambda output, target: output.mean(), [PAIRS[:]])
    assert not to_dense(HessianOperator(loss)).any()
    constant = Loss(nn.Linear(4, 3), lambda output, target: torch.tensor(1.0), [PAIRS[:]])
    with pytest.raises(InputError, match="does not reach the weights"):
        constant.grad(constant.weights)


def test_parameters_that_the_loss_does_not_use_are_zero_rows() -> None:
    loss, _, _ = build(CASES["unused and frozen"])
    rows = to_dense(HessianOperator(loss)).abs().sum(0)
    unused = [name.startswith("unused") for name in loss.layout.names]
    spans = zip(unused, rows.split(loss.layout.numels), strict=True)
    assert "frozen.weight" not in loss.layout.names
    assert all(bool((span == 0).all()) == is_unused for is_unused, span in spans)


def test_flat_vectors_round_trip_and_tied_weights_count_once() -> None:
    model, _ = CASES["tied weights"].build()
    w = flatten(model)
    assert len(w) == 4 * 4 + 4 + 4 * 3 + 3
    assign(model, 2 * w)
    torch.testing.assert_close(flatten(model), 2 * w)
    loss, _, _ = build(CASES["mlp"])
    with pytest.raises(InputError, match="flat vector of shape"):
        loss.value(torch.zeros(3))


def test_dense_forms_are_for_small_operators_only() -> None:
    A = FunctionOperator(lambda v: v, size=20_000)
    with pytest.raises(InputError, match="at most"):
        to_dense(A)
    assert matmat(A, torch.ones(20_000, 2)).shape == (20_000, 2)
