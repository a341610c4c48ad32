"""The gradient noise scale: planted noise, dense covariances and Hessians, and every way of taking the gradients."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sharpness.errors import InputError
from sharpness.loss import Loss
from sharpness.loss.noise_scale import sgd_noise_scale
from sharpness.loss.per_example import UnitGradients
from sharpness.probes.gradient_noise import GradientNoise, GradientNoiseResult
from sharpness.probes.methods.noise_statistics import Jackknifed, curvature_and_noise, gradient_and_noise, ratio
from sharpness.vectors import flatten
from tests.cases import CASES
from tests.oracles import dense_hessian, merged, whole_loss

H = torch.tensor([4.0, 1.0, 0.5, 2.0], dtype=torch.float64)
SPREAD = torch.tensor([1.0, 2.0, 3.0, 0.5], dtype=torch.float64)
CENTRE = torch.tensor([1.0, -1.0, 2.0, 0.5], dtype=torch.float64)  # G = -h * CENTRE at w = 0


class Difference(nn.Module):
    """``w - x``: with :func:`bowl` the loss ``1/2 sum_i h_i (w_i - x_i)^2``, whose gradient is ``h (w - x)``."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(size, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.w - x


def bowl(output: Tensor, target: Tensor) -> Tensor:
    return 0.5 * (H * output**2).sum(1).mean()


def planted(count: int, seed: int, sizes: tuple[int, ...] = ()) -> Loss:
    generator = torch.Generator().manual_seed(seed)
    x = CENTRE + SPREAD * torch.randn(count, 4, generator=generator, dtype=torch.float64)
    batches = [(part, part) for part in x.split(list(sizes) or [count])]
    return Loss(Difference(4), bowl, batches, dtype=torch.float64)


TRUTH = {
    "gradient_square": float((H * CENTRE).square().sum()),
    "noise_trace": float((H * SPREAD).square().sum()),
    "gradient_curvature": float((H**3 * CENTRE**2).sum()),
    "noise_curvature": float((H**3 * SPREAD**2).sum()),
}
TRUTH |= {
    "simple_noise_scale": TRUTH["noise_trace"] / TRUTH["gradient_square"],
    "noise_scale": TRUTH["noise_curvature"] / TRUTH["gradient_curvature"],
    "largest_step": TRUTH["gradient_square"] / TRUTH["gradient_curvature"],
    "largest_improvement": TRUTH["gradient_square"] ** 2 / (2 * TRUTH["gradient_curvature"]),
}


def number(result: GradientNoiseResult, name: str) -> float:
    value = result.numbers[name].value
    assert value is not None
    return value


@pytest.mark.parametrize("sizes", [(), (20, 13, 7)])
def test_planted_moments_are_recovered_without_bias(sizes: tuple[int, ...]) -> None:
    # Seen from 0 and from the opposite side of the minimum, what is linear in the noise cancels. The plain |G^|^2, off
    # by tr Sigma / N, would then be off by several standard errors of this mean.
    probe = GradientNoise(num_hvps=3, method="batches") if sizes else GradientNoise(num_hvps=8)
    losses = [planted(40, seed, sizes) for seed in range(24)]
    results = [[probe(loss, side * CENTRE) for side in (0, 2)] for loss in losses]
    for name in ("gradient_square", "noise_trace", "gradient_curvature", "noise_curvature"):
        values = np.array([[number(result, name) for result in sides] for sides in results]).mean(1)
        error = values.std(ddof=1) / len(values) ** 0.5
        assert abs(values.mean() - TRUTH[name]) < 3.5 * error, name
        assert error < 0.2 * TRUTH[name], name


@pytest.mark.dear
def test_intervals_hold_the_planted_numbers_as_often_as_they_say() -> None:
    held, num = dict.fromkeys(TRUTH, 0), 50
    for seed in range(num):
        result = GradientNoise(num_hvps=8, seed=seed, confidence=0.9)(planted(60, seed))
        for name, truth in TRUTH.items():
            measured = result.numbers[name]
            lower = -math.inf if measured.lower is None else measured.lower
            upper = math.inf if measured.upper is None else measured.upper
            held[name] += lower <= truth <= upper
    assert all(times >= 0.9 * num - 3 * math.sqrt(num * 0.09) for times in held.values()), held
    assert all(held[name] < num for name in ("gradient_square", "noise_trace")), held


def test_unbiasedness_and_coverage_of_the_two_batch_size_estimator_on_synthetic_gradients() -> None:
    generator = np.random.default_rng(0)
    sizes = np.array([2.0, 5.0, 9.0, 4.0, 3.0, 7.0, 6.0, 2.0])
    G, sigma = np.array([1.0, 0.5, 0.0]), np.array([2.0, 1.0, 1.5])
    squares, noises = [], []
    for _ in range(4000):
        g = G + sigma * generator.standard_normal((8, 3)) / np.sqrt(sizes)[:, None]
        mean = sizes @ g / sizes.sum()
        d = sizes[:, None] * (g - mean)
        square, noise = gradient_and_noise(sizes, (d**2).sum(1), d @ mean, float(mean @ mean))
        squares.append(square.value)
        noises.append(noise.value)
    for values, truth in ((squares, 1.25), (noises, 7.25)):
        assert abs(np.mean(values) - truth) < 3 * np.std(values) / 4000**0.5


def test_jackknife_values_are_the_estimates_without_one_unit() -> None:
    generator = np.random.default_rng(1)
    g, A = generator.standard_normal((7, 3)), np.diag([1.0, 2.0, -0.5])

    def estimates(g: np.ndarray) -> list[Jackknifed]:
        mean, ones = g.mean(0), np.ones(len(g))
        d = g - mean
        curved = ((d @ A) * d).sum(1)
        return [
            *gradient_and_noise(ones, (d**2).sum(1), d @ mean, float(mean @ mean)),
            *curvature_and_noise(ones, np.arange(len(g)), curved, d @ A @ mean, float(mean @ A @ mean)),
        ]

    full = estimates(g)
    for b in range(7):
        without = estimates(np.delete(g, b, axis=0))
        for at in (0, 1):  # exactly; those of the Hessian replace d^T H d about the new mean by that about the old
            assert full[at].deleted[b] == pytest.approx(without[at].value, rel=1e-9, abs=1e-12)
        assert full[2].deleted[b] == pytest.approx(without[2].value, abs=0.15)
    mean = full[1]
    assert mean.covariance(mean) == pytest.approx(6 / 7 * ((mean.deleted - mean.deleted.mean()) ** 2).sum())


@pytest.mark.parametrize("name", ["mlp", "mlp, class weights", "mlp, ignored class", "layer norm", "dropout"])
def test_products_agree_with_dense_gradients_and_hessian(name: str) -> None:
    case = CASES[name]
    model, batches = case.build()
    loss = Loss(model, case.criterion, batches, dtype=torch.float64)
    w = flatten(model)
    result = GradientNoise(num_hvps=9)(loss)
    dense, value = dense_hessian(case, model, batches, w), whole_loss(case, model, batches)
    x, y = merged(batches)
    weight, ignored = getattr(case.criterion, "weight", None), getattr(case.criterion, "ignore_index", None)
    gradients, counts = [], []
    for n in range(len(x)):
        if int(y[n]) != ignored:
            one = whole_loss(case, model, [(x[n : n + 1], y[n : n + 1])])
            gradients.append(torch.func.grad(one)(w))
            counts.append(1.0 if weight is None else float(weight[y[n]]))
    v = torch.tensor(counts, dtype=torch.float64)
    v *= len(v) / v.sum()
    G = torch.func.grad(value)(w)
    d = v.unsqueeze(1) * (torch.stack(gradients) - G)
    freedom = len(v) - float((v**2).sum()) / len(v)
    noise, curved = float((d**2).sum()) / freedom, float(((d @ dense) * d).sum()) / freedom
    assert number(result, "noise_trace") == pytest.approx(noise, rel=1e-9)
    assert number(result, "gradient_square") == pytest.approx(float(G @ G) - noise / len(v), rel=1e-9)
    assert number(result, "noise_curvature") == pytest.approx(curved, rel=1e-8)
    assert number(result, "gradient_curvature") == pytest.approx(float(G @ dense @ G) - curved / len(v), rel=1e-8)
    assert result.residual is not None and result.residual < 1e-12 and result.num_units == len(v)


@pytest.mark.parametrize("name", [n for n, case in CASES.items() if case.norm == "frozen" and "summed" not in n])
def test_vmap_and_loop_give_the_same_gradients(name: str) -> None:
    case = CASES[name]
    model, batches = case.build()
    loss = Loss(model, case.criterion, batches, dtype=torch.float64)
    auto, loop = (UnitGradients(loss, loss.weights, method, chunk) for method, chunk in (("auto", 3), ("loop", 4)))
    one, two = (
        torch.cat([torch.cat([p.flatten(1) for p in pieces], dim=1) for pieces in units]) for units in (auto, loop)
    )
    torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-12)
    mean = (auto.weights.unsqueeze(1) * one).sum(0) / auto.num_examples
    torch.testing.assert_close(mean, loss.grad(loss.weights), rtol=1e-9, atol=1e-12)
    assert auto.method == ("loop" if auto.reason.startswith("vmap cannot") else "vmap")


def test_a_chunk_is_no_larger_than_what_is_kept_when_it_is_freed() -> None:
    torch.manual_seed(0)
    model, x, y = nn.Linear(4096, 512), torch.randn(8, 4096), torch.randn(8, 512)  # 8 MiB in one parameter
    loss = Loss(model, nn.MSELoss(), [(x[:5], y[:5]), (x[5:], y[5:])])
    units = UnitGradients(loss, loss.weights)
    sizes, weights = zip(*((len(pieces[0]), pieces[0]) for pieces in units), strict=True)
    assert sizes == (3, 2, 3)
    residual = 2 / 512 * (x @ model.weight.T + model.bias - y)  # so that an example's gradient is an outer product
    expected = torch.einsum("bi,bj->bij", residual, x).detach()
    torch.testing.assert_close(torch.cat(weights), expected, rtol=1e-4, atol=1e-6)


class Branching(nn.Module):
    """Control flow that depends on the data, of which vmap knows nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) if float(x.sum()) > 0 else 2 * self.layer(x)


def test_where_vmap_cannot_the_record_says_that_it_was_a_loop() -> None:
    loss = Loss(Branching(), F.mse_loss, [(torch.ones(5, 4), torch.randn(5, 3))])
    result = GradientNoise(num_hvps=0)(loss)
    assert result.method == "loop" and result.method_reason.startswith("vmap cannot: ")
    assert result.to_record().details["method_reason"] == result.method_reason
    with pytest.raises(InputError, match="use 'loop'"):
        GradientNoise(method="vmap")(loss)


def test_batch_statistics_are_measured_batch_by_batch() -> None:
    case = CASES["norm, batch statistics instead of running"]
    model, batches = case.build()
    loss = Loss(model, F.cross_entropy, batches, norm="batch", dtype=torch.float64)
    result = GradientNoise(num_hvps=3)(loss)
    sizes = [float(len(y)) for _, y in batches]
    w, total = loss.weights, sum(sizes)
    gradients = [Loss(model, F.cross_entropy, [batch], norm="batch", dtype=torch.float64).grad(w) for batch in batches]
    G = loss.grad(w)
    freedom = total - sum(size**2 for size in sizes) / total
    noise = sum(s**2 * float((g - G).square().sum()) for s, g in zip(sizes, gradients, strict=True)) / freedom
    assert (result.method, result.unit, result.num_units) == ("batches", "batch", 3)
    assert number(result, "noise_trace") == pytest.approx(noise, rel=1e-9)
    assert result.lower is None and "got 3" in result.reasons["lower"]  # three batches tell nothing of their spread
    with pytest.raises(InputError, match="of its own"):
        GradientNoise(method="loop")(loss)


def test_best_steps_follow_the_papers_formulas() -> None:
    result = GradientNoise(num_hvps=32, batch_sizes=(1, 16))(planted(400, 3))
    step, fall, scale = (number(result, n) for n in ("largest_step", "largest_improvement", "noise_scale"))
    for row in result.by_batch_size:
        shrink = 1 + scale / row["batch_size"]
        assert row["step"]["value"] == pytest.approx(step / shrink, rel=1e-9)
        assert row["improvement"]["value"] == pytest.approx(fall / shrink, rel=1e-9)
        assert row["step"]["lower"] < row["step"]["value"] < row["step"]["upper"]


def test_near_a_minimum_the_noise_scale_has_a_lower_end_only() -> None:
    result = GradientNoise(num_hvps=4)(planted(50, 1), CENTRE)  # the minimum over the distribution
    record = result.to_record().to_dict()
    assert record["upper"] is None and "told from 0" in record["reasons"]["upper"]
    assert record["lower"] is not None and record["lower"] > 1
    json.dumps(record, allow_nan=False)


def test_at_the_minimum_of_the_data_the_noise_scale_is_null_with_a_reason() -> None:
    loss = planted(50, 0)
    (x, _), *_ = loss.batches
    w = x.mean(0) + torch.tensor([1e-3, 0, 0, 0], dtype=torch.float64)
    result = GradientNoise(num_hvps=4)(loss, w)
    assert result.value is None and "minimum of the data" in result.reasons["value"]
    covariance = (H * (x - x.mean(0))).square().sum(1).mean()  # the examples as the whole distribution
    assert result.data_noise_scale == pytest.approx(float(covariance) / (4e-3) ** 2)


def test_best_steps_are_null_where_the_square_of_the_gradient_is_estimated_below_0() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, 20, generator=generator, dtype=torch.float64)
    y = x[:, :1] + torch.randn(500, 1, generator=generator, dtype=torch.float64)
    loss = Loss(nn.Linear(20, 1, bias=False), nn.MSELoss(), [(x, y)], dtype=torch.float64)
    result = GradientNoise()(loss, torch.linalg.lstsq(x, y).solution.flatten())
    reason = result.numbers["simple_noise_scale"].reason
    assert reason is not None and reason.startswith("|G|^2 is estimated below 0")
    null = {"value": None, "lower": None, "upper": None, "reason": reason}
    assert all(row["step"] == null and row["improvement"] == null for row in result.by_batch_size)
    assert result.numbers["largest_step"].details() == result.numbers["largest_improvement"].details() == null


def test_best_steps_have_no_lower_end_where_the_gradient_cannot_be_told_from_0() -> None:
    w, size, num, held, unsure = CENTRE + 0.5 / H, 4, 50, {"step": 0, "improvement": 0}, 0
    square = float((H * (w - CENTRE)).square().sum())
    curvature = float((H**3 * (w - CENTRE) ** 2).sum()) + TRUTH["noise_curvature"] / size
    truths = {"step": square / curvature, "improvement": square**2 / (2 * curvature)}
    for seed in range(num):
        result = GradientNoise(num_hvps=30, batch_sizes=(size,))(planted(60, seed), w)
        (row,), least = result.by_batch_size, result.numbers["gradient_square"].lower
        for name, truth in truths.items():
            found = row[name]
            if found["value"] is not None and least is not None and least <= 0:
                assert found["lower"] is None and found["reason"].startswith("|G|^2 cannot be told from 0")
                unsure += 1
            held[name] += found["upper"] is None or (found["lower"] or 0.0) <= truth <= found["upper"]
    assert unsure > num
    # A square is flat at 0: an interval linear in |G|^2 holds the true fall in 41 of the 50.
    assert all(times >= 0.95 * num - 3 * math.sqrt(num * 0.0475) for times in held.values()), held


def test_fieller_interval_is_the_set_of_ratios_that_cannot_be_refused() -> None:
    generator = np.random.default_rng(2)
    over, under = (Jackknifed(3.0, 3 + 0.1 * generator.standard_normal(20), 20) for _ in range(2))
    measured = ratio(over, under, 0.9, "b")
    for end in (measured.lower, measured.upper):
        assert end is not None
        difference = over.value - end * under.value
        spread = over.covariance(over) - 2 * end * over.covariance(under) + end**2 * under.covariance(under)
        assert abs(difference) / spread**0.5 == pytest.approx(1.7291328, rel=1e-6)  # Student's t, 19 degrees
    assert ratio(over, Jackknifed(-3.0, 0 * over.deleted, 20), 0.9, "b").value is None
    lost = Jackknifed(1.0, 1 + generator.standard_normal(20), 20)  # neither can be told from 0: any ratio is possible
    assert ratio(lost, lost, 0.9, "b").lower is None and ratio(lost, lost, 0.9, "b").upper is None
    half = ratio(over, lost, 0.9, "b")
    assert half.value is not None and half.lower is not None and 0 < half.lower < half.value and half.upper is None


def test_the_seed_chooses_the_examples_with_products_and_nothing_else() -> None:
    loss = planted(60, 5)
    one, two, three = (GradientNoise(num_hvps=5, seed=seed)(loss) for seed in (1, 1, 2))
    assert one.numbers == two.numbers
    assert one.numbers["simple_noise_scale"] == three.numbers["simple_noise_scale"]
    assert one.numbers["noise_curvature"] != three.numbers["noise_curvature"]
    assert one.num_hvps == 6 and one.num_gradients == 61


def test_float32_agrees_and_chunks_do_not_matter() -> None:
    model, batches = CASES["convolution"].build()
    exact = GradientNoise(num_hvps=9)(Loss(model, F.cross_entropy, batches, dtype=torch.float64))
    rough = GradientNoise(num_hvps=9, chunk=2)(Loss(model, F.cross_entropy, batches))
    for name in exact.numbers.keys() - {"simple_noise_scale", "noise_scale", "largest_step", "largest_improvement"}:
        assert number(rough, name) == pytest.approx(number(exact, name), rel=1e-3, abs=1e-5)


def test_the_noise_scale_of_a_training_is_reported_beside() -> None:
    result = GradientNoise(num_hvps=0, learning_rate=0.1, batch_size=10, momentum=0.5, num_train=100)(planted(20, 0))
    assert result.sgd_noise_scale == pytest.approx(0.1 * 9 / 0.5)
    assert sgd_noise_scale(0.1, 100, 100) == 0.0  # the full batch has no noise
    assert "B_simple" in str(result) and "noise_scale" not in result.details()
    assert "num_hvps=0" in result.reasons["noise_scale"]


def test_progress_counts_to_the_end() -> None:
    seen: list[tuple[int, int]] = []
    GradientNoise(num_hvps=4, chunk=8)(planted(20, 0), progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (24, 24) and [done for done, _ in seen] == sorted(done for done, _ in seen)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [({"method": "vmapp"}, "vmap"), ({"chunk": 0}, "at least 1"), ({"chunk": "all"}, "'auto'"),
     ({"num_hvps": 1}, "at least 2"),
     ({"confidence": 1.0}, "between 0 and 1"), ({"batch_sizes": (0,)}, "at least 1"), ({"batch_size": 4}, "together"),
     ({"learning_rate": 0.1, "batch_size": 99}, "from 1 to the 20"), ({"method": "batches"}, "at least 2 batches")],
)  # fmt: skip
def test_bad_knobs_are_refused(knobs: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        GradientNoise(**knobs)(planted(20, 0))  # type: ignore[arg-type]


def test_losses_without_a_noise_scale_are_refused() -> None:
    x = torch.randn(4, 3)
    with pytest.raises(InputError, match="averages"):
        GradientNoise()(Loss(nn.Linear(3, 1), nn.MSELoss(reduction="sum"), [(x, x[:, :1])]))
    with pytest.raises(InputError, match="at least 2 examples"):
        GradientNoise()(Loss(nn.Linear(3, 1), nn.MSELoss(), [(x[:1], x[:1, :1])]))
    with pytest.raises(InputError, match="at least 2 batches"):  # examples that see each other: a loss of whole batches
        GradientNoise()(Loss(nn.Linear(3, 1), lambda o, t: ((o - o.mean() - t) ** 2).mean(), [(x, x[:, :1])]))
