"""Geodesic sharpness: the symmetry of attention, the published formulas written out, closed forms, small radii."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy.linalg import solve_sylvester
from torch import Tensor, nn
from torch.nn import functional as F

from sharpness.errors import InputError, RunError
from sharpness.loss import Loss
from sharpness.models.transformer import Block
from sharpness.probes.fisher_rao import FisherRaoNorm
from sharpness.probes.geodesic_sharpness import GeodesicSharpness
from sharpness.probes.methods.attention_pairs import Pair, find_pairs
from sharpness.probes.methods.geodesics import Geodesics
from sharpness.probes.worst_case import WorstCaseSharpness
from tests.cases import CASES
from tests.oracles import dense_hessian
from tests.probe_cases import small_network

METRICS = ("inv", "mix")


class OneToken(nn.Module):
    """Attention over a single token, whose weight is 1: the output is ``W_O W_V x``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, 1, bias=False)
        for parameter in self.attention.parameters():
            nn.init.ones_(parameter) if width == 1 else nn.init.normal_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        x = x.unsqueeze(0)
        return self.attention(x, x, x)[0].squeeze(0)


class Sequences(nn.Module):
    """One attention block over sequences, ``block(x)`` or its first output, and a sum over places."""

    def __init__(self, block: nn.Module, *, three: bool = False) -> None:
        super().__init__()
        self.block, self.three = block, three

    def forward(self, x: Tensor) -> Tensor:
        output = self.block(x, x, x) if self.three else self.block(x)
        return (output[0] if isinstance(output, tuple) else output).sum(1)


def loss_of(block: Callable[[], nn.Module], width: int = 8, three: bool = False, **options: Any) -> Loss:
    """Return a mean squared error over seven random sequences in uneven batches, float64."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Sequences(block(), three=three).double()
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.5)
        x, y = torch.randn(7, 3, width, dtype=torch.float64), torch.randn(7, width, dtype=torch.float64)
    batches = list(zip(x.split(4), y.split(4), strict=True))
    return Loss(model, F.mse_loss, batches, dtype=torch.float64, **options)


def gpt2(crossing: bool = False) -> nn.Module:
    from transformers import GPT2Config
    from transformers.models.gpt2.modeling_gpt2 import GPT2Attention

    config = GPT2Config(n_embd=8, n_head=2, attn_pdrop=0.0, resid_pdrop=0.0)
    config._attn_implementation = "eager"
    block: Any = GPT2Attention(config, is_cross_attention=crossing, layer_idx=0)
    if crossing:
        forward = block.forward
        block.forward = lambda x: forward(x, encoder_hidden_states=x.flip(1))
    return block


def bert() -> nn.Module:
    from transformers import BertConfig
    from transformers.models.bert.modeling_bert import BertAttention

    config = BertConfig(hidden_size=8, num_attention_heads=2)
    config._attn_implementation = "eager"
    return BertAttention(config)


def timm_block(**options: Any) -> nn.Module:
    from timm.layers.attention import Attention

    return Attention(8, 2, qkv_bias=True, **options)


BLOCKS: dict[str, tuple[Callable[[], nn.Module], bool, int, list[tuple[int, int]]]] = {
    # block, three inputs, heads, (n, m) of each pair: a bias is one row more
    "torch": (lambda: nn.MultiheadAttention(8, 2, batch_first=True), True, 2, [(9, 9), (9, 8)]),
    "torch, other keys": (
        lambda: nn.MultiheadAttention(8, 4, kdim=8, vdim=8, add_bias_kv=True, batch_first=True),
        True,
        4,
        [(9, 10), (10, 8)],
    ),
    "gpt2": (gpt2, False, 2, [(9, 9), (9, 8)]),
    "gpt2, crossing": (lambda: gpt2(crossing=True), False, 2, [(9, 9), (9, 8)]),
    "bert": (bert, False, 2, [(9, 9), (9, 8)]),
    "timm": (timm_block, False, 2, [(9, 9), (9, 8)]),
    "timm, normalised queries": (lambda: timm_block(qk_norm=True, norm_layer=nn.LayerNorm), False, 2, [(9, 8)]),
    "timm, normalised heads": (lambda: timm_block(scale_norm=True, norm_layer=nn.LayerNorm), False, 2, [(9, 9)]),
    "timm, gated": (lambda: timm_block(gated=True), False, 2, [(9, 9)]),
}


def moved(loss: Loss, seed: int = 1) -> Tensor:
    """Return the weights with other factors of the same products; shares no code with the library."""
    generator, w = torch.Generator().manual_seed(seed), loss.weights.clone()
    for pair in find_pairs(loss):
        for g, h in zip(pair.first, pair.second, strict=True):
            a = torch.eye(g.shape[1]) + 0.4 * torch.randn(g.shape[1], g.shape[1], generator=generator)
            w[g], w[h] = w[g] @ a.double(), w[h] @ torch.linalg.inv(a.double()).T
    return w


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_are_found_and_the_measure_does_not_see_their_symmetry(name: str) -> None:
    block, three, heads, shapes = BLOCKS[name]
    loss = loss_of(block, three=three)
    pairs = find_pairs(loss)
    assert [(len(p.first), p.first.shape[1], p.second.shape[1]) for p in pairs] == [(heads, *nm) for nm in shapes]
    w = moved(loss)
    assert loss.value(w) == pytest.approx(loss.value(loss.weights), rel=1e-10)
    for metric in METRICS:
        probe = GeodesicSharpness(rho=0.1, metric=metric, steps=2)
        here, there = probe(loss), probe(loss, w)
        assert here.value > 0 and there.value == pytest.approx(here.value, rel=1e-6)
        assert there.details()["rise_by_start"] == pytest.approx(here.details()["rise_by_start"], rel=1e-6)


def test_the_adaptive_and_the_plain_measure_do_see_it_and_the_fisher_rao_norm_does_not() -> None:
    loss = loss_of(timm_block)
    for scaling in ("plain", "adaptive"):
        values = [WorstCaseSharpness(rho=0.1, scaling=scaling)(loss, w).value for w in (loss.weights, moved(loss))]
        assert abs(values[1] / values[0] - 1) > 0.05
    assert FisherRaoNorm()(loss, moved(loss)).value == pytest.approx(FisherRaoNorm()(loss).value, rel=1e-9)


def test_the_block_of_the_character_transformer_is_known() -> None:
    loss = loss_of(lambda: Block(128, nn.LayerNorm), width=128)  # 16 frequencies for each of 4 heads
    assert [tuple(pair.first.shape) for pair in find_pairs(loss)] == [(64, 128, 1, 2), (4, 128, 32)]
    result = GeodesicSharpness(rho=0.05, steps=2, num_starts=1)(loss)
    assert result.value > 0 and result.pairs == {"block query-key": 64, "block value-output": 4}


def random_pair(heads: int = 2, n: int = 5, m: int = 4, h: int = 3) -> tuple[Tensor, Pair]:
    """Return seven single weights and a pair in one flat vector."""
    places = torch.arange(7, 7 + heads * (n + m) * h)
    pair = Pair("pair", places[: heads * n * h].view(heads, n, h), places[heads * n * h :].view(heads, m, h))
    return torch.randn(7 + len(places), generator=torch.Generator().manual_seed(3), dtype=torch.float64), pair


def grams(g: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    return g.T @ g, h.T @ h


def published_norm(metric: str, g: Tensor, h: Tensor, a: Tensor, b: Tensor, a2: Tensor, b2: Tensor) -> float:
    p, r = grams(g, h)
    left, right = (p.inverse(), r.inverse()) if metric == "inv" else (r, p)
    return float((left @ a.T @ a2).trace() + (right @ b.T @ b2).trace())


def published_christoffel(metric: str, g: Tensor, h: Tensor, a: Tensor, b: Tensor) -> Tensor:
    p, r = grams(g, h)
    if metric == "inv":
        return -a @ p.inverse() @ (a.T @ g + g.T @ a) + g @ p.inverse() @ a.T @ a
    return a @ (b.T @ h + h.T @ b) @ r.inverse() - g @ (b.T @ b) @ r.inverse()


def published_projection(metric: str, g: Tensor, h: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    p, r = grams(g, h)
    if metric == "inv":  # A L^T + L^T A = B; the equation as printed, with L and L^T exchanged, is not orthogonal
        A, B = p @ r, p @ h.T @ b - a.T @ g @ r
        lam = torch.from_numpy(solve_sylvester(A.numpy(), A.numpy(), B.numpy())).T
    else:
        lam = (b.T @ h @ r.inverse() - p.inverse() @ g.T @ a) / 2
    return a + g @ lam, b - h @ lam.T


@pytest.mark.parametrize("metric", METRICS)
def test_points_and_projections_are_those_of_the_published_formulas(metric: str) -> None:
    w, pair = random_pair()
    geodesics = Geodesics(w, [pair], metric)
    generator = torch.Generator().manual_seed(4)
    u = torch.randn(len(w), generator=generator, dtype=torch.float64)
    # To first order the point moves by xi itself.
    jacobian = torch.autograd.functional.jacobian(geodesics.point, torch.zeros_like(u))
    assert isinstance(jacobian, Tensor)
    xi, flat = jacobian @ u, jacobian @ geodesics.horizontal(u)
    torch.testing.assert_close(xi[:7], w[:7].abs() * u[:7])
    assert torch.equal(geodesics.horizontal(u)[:7], u[:7])
    lengths, moved_to = 0.0, geodesics.point(u)
    for first, second in zip(pair.first, pair.second, strict=True):
        g, h, a, b = w[first], w[second], xi[first], xi[second]
        lengths += published_norm(metric, g, h, a, b, a, b)
        gamma, gamma_h = (published_christoffel(metric, *order) for order in ((g, h, a, b), (h, g, b, a)))
        torch.testing.assert_close(moved_to[first], g + a - gamma / 2)
        torch.testing.assert_close(moved_to[second], h + b - gamma_h / 2)
        across, across_h = published_projection(metric, g, h, a, b)
        torch.testing.assert_close(flat[first], across)
        torch.testing.assert_close(flat[second], across_h)
        for _ in range(3):
            along = torch.randn(3, 3, generator=generator, dtype=torch.float64)
            assert abs(published_norm(metric, g, h, flat[first], flat[second], -g @ along, h @ along.T)) < 1e-10
    assert lengths == pytest.approx(float(u[7:] @ u[7:]), rel=1e-10)


@pytest.mark.parametrize("metric", METRICS)
def test_every_point_of_the_ascent_is_horizontal_and_in_the_ball(metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loss, seen = loss_of(timm_block), list[Tensor]()
    own = Geodesics.pulled_back

    def watched(self: Geodesics, u: Tensor, function: Any) -> tuple[float, Tensor]:
        seen.append(u)
        torch.testing.assert_close(self.horizontal(u), u, rtol=0, atol=1e-13)
        return own(self, u, function)

    monkeypatch.setattr(Geodesics, "pulled_back", watched)
    result = GeodesicSharpness(rho=0.2, metric=metric)(loss)
    assert len(seen) == result.num_gradients == 42
    lengths = [float(u.norm()) for u in seen]
    assert max(lengths) <= 0.2 * (1 + 1e-12) and lengths[0] == 0.0 and lengths[21] == pytest.approx(0.2)


class Rotary(nn.Module):
    """An attention block of a decoder of transformers, with four queries for two keys, and its rotary embeddings."""

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__()
        from importlib import import_module

        import transformers

        sizes = {"hidden_size": 8, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4} | options
        config = getattr(transformers, f"{name}Config")(**sizes, num_hidden_layers=1, vocab_size=9)
        config._attn_implementation = "eager"
        module = import_module(f"transformers.models.{name.lower()}.modeling_{name.lower()}")
        self.attention = getattr(module, f"{name}Attention")(config, 0)
        self.turns = getattr(module, f"{name}RotaryEmbedding")(config)

    def forward(self, x: Tensor) -> Tensor:
        turns = self.turns(x, torch.arange(x.shape[1]).expand(len(x), -1))
        return self.attention(x, position_embeddings=turns, attention_mask=None)[0]


ROTARY: dict[str, tuple[Callable[[], nn.Module], list[tuple[int, int, int]]]] = {
    # a pair for each frequency of each key's head; (pairs, n, m): two queries or outputs stand in one factor
    "Llama": (lambda: Rotary("Llama"), [(4, 16, 8), (2, 8, 16)]),
    "Qwen2, biases": (lambda: Rotary("Qwen2"), [(4, 18, 9), (2, 9, 16)]),
    "Qwen3, normalised": (lambda: Rotary("Qwen3"), [(2, 8, 16)]),
    "Mistral, one key for all": (lambda: Rotary("Mistral", num_key_value_heads=1), [(2, 32, 8), (1, 8, 32)]),
}


def moved_in_groups(loss: Loss, heads: int) -> Tensor:
    """Return weights of the same function: each key's head turned and stretched by frequency, each value's mixed."""
    generator, w = torch.Generator().manual_seed(1), loss.weights.clone()
    parts = {name.rpartition("attention.")[2]: piece for name, piece in loss.layout.unflatten(w).items()}
    groups = len(parts["q_proj.weight"]) // len(parts["k_proj.weight"])
    for head in range(heads):
        keys, queries = slice(4 * head, 4 * head + 4), slice(4 * head * groups, 4 * (head + 1) * groups)
        a = torch.eye(4, dtype=torch.float64) + 0.4 * torch.randn(4, 4, generator=generator, dtype=torch.float64)
        b = torch.zeros(4, 4, dtype=torch.float64)
        for i in (0, 1):  # rotations and stretches of the plane of entries i and i + 2
            x, y = (0.5 + torch.rand(2, generator=generator, dtype=torch.float64)).tolist()
            b[i, i], b[i + 2, i + 2], b[i, i + 2], b[i + 2, i] = x, x, -y, y
        if "q_norm.weight" not in parts:
            for kind in ("weight", "bias"):
                if f"k_proj.{kind}" in parts:
                    k, q = parts[f"k_proj.{kind}"], parts[f"q_proj.{kind}"]
                    k[keys] = b @ k[keys]
                    own = q[queries].unflatten(0, (groups, 4))
                    q[queries] = torch.einsum("ij,gj...->gi...", torch.linalg.inv(b).T, own).flatten(0, 1)
        for kind in ("weight", "bias"):
            if f"v_proj.{kind}" in parts:
                parts[f"v_proj.{kind}"][keys] = a @ parts[f"v_proj.{kind}"][keys]
        output = parts["o_proj.weight"]
        output[:, queries] = (output[:, queries].unflatten(1, (groups, 4)) @ torch.linalg.inv(a)).flatten(1)
    return w


@pytest.mark.parametrize("name", ROTARY)
def test_queries_that_share_a_key_move_with_it_and_turned_ones_by_frequency(name: str) -> None:
    block, shapes = ROTARY[name]
    loss = loss_of(block)
    assert [(len(p.first), p.first.shape[1], p.second.shape[1]) for p in find_pairs(loss)] == shapes
    w = moved_in_groups(loss, shapes[-1][0])
    assert float((w - loss.weights).norm()) > 1 and loss.value(w) == pytest.approx(loss.value(loss.weights), rel=1e-10)
    for metric in METRICS:
        probe = GeodesicSharpness(rho=0.1, metric=metric, steps=2)
        here, there = probe(loss), probe(loss, w)
        assert here.value > 0 and there.value == pytest.approx(here.value, rel=1e-6)


@pytest.mark.parametrize("metric", METRICS)
def test_complex_pairs_have_the_published_formulas_with_adjoints(metric: str) -> None:
    places = torch.arange(3, 3 + 2 * 9 * 2)
    pair = Pair("pair", places[:20].view(2, 5, 1, 2), places[20:].view(2, 4, 1, 2))
    generator = torch.Generator().manual_seed(3)
    w, u = torch.randn(2, 39, generator=generator, dtype=torch.float64)
    geodesics = Geodesics(w, [pair], metric)
    jacobian = torch.autograd.functional.jacobian(geodesics.point, torch.zeros_like(u))
    assert isinstance(jacobian, Tensor)
    (g, h), (a, b), (flat, flat_h) = (pair.of(v) for v in (w, jacobian @ u, jacobian @ geodesics.horizontal(u)))
    g2, h2 = (v.abs().square().sum((1, 2), keepdim=True) for v in (g, h))
    weights = (1 / g2, 1 / h2) if metric == "inv" else (h2, g2)
    lengths = sum((weight * v.abs() ** 2).sum() for weight, v in zip(weights, (a, b), strict=True))
    assert float(lengths) == pytest.approx(float(u[3:] @ u[3:]), rel=1e-10)
    for factor in (1.0, 1j):  # stretches and turns: (z g, -conj(z) h) are the directions of the symmetry
        inner = (weights[0] * (flat.conj() * (factor * g)).real).sum((1, 2)) - (
            weights[1] * (flat_h.conj() * (complex(factor).conjugate() * h)).real
        ).sum((1, 2))
        assert bool((inner.abs() < 1e-10).all())
    # The geodesic keeps to the level of u: at g z, h / conj(z) the same u leads to the same product g h^H.
    z = torch.tensor([0.7 + 0.9j, -1.2 + 0.1j], dtype=torch.complex128).view(2, 1, 1)
    other = w.clone()
    other[pair.places] = torch.cat([torch.view_as_real(v).reshape(-1) for v in (g * z, h / z.conj())])
    ends = [pair.of(Geodesics(v, [pair], metric).point(u)) for v in (w, other)]
    products = [first @ second.mH for first, second in ends]
    torch.testing.assert_close(products[0], products[1])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("target", [0.3, 2.0])
def test_scalar_attention_has_the_closed_form_of_its_geodesics(metric: str, target: float) -> None:
    # G = W_V and H = W_O, y0 = G H x. Both factors grow by the same share b, 2 b^2 <= rho^2 for inv: (G, H) e^b, to
    # second order 1 + b + b^2 / 2. For mix 2 (G H b)^2 <= rho^2 and (G, H) sqrt(1 + 2 b), to second order
    # 1 + b - b^2 / 2. The rise is y0^2 (f^4 - 1) - 2 y y0 (f^2 - 1), f the growth.
    g, h, rho = 1.5, 0.8, 0.1
    model = OneToken(1).double()
    with torch.no_grad():
        model.attention.in_proj_weight[2] = g
        model.attention.out_proj.weight[0] = h
    y0 = g * h
    batch = (torch.ones(1, 1), torch.full((1, 1), target, dtype=torch.float64))
    loss = Loss(model, F.mse_loss, [batch], dtype=torch.float64)
    b = math.copysign(rho / math.sqrt(2) / (1 if metric == "inv" else y0), y0 - target)
    growth = 1 + b + (b**2 / 2 if metric == "inv" else -(b**2) / 2)
    expected = y0**2 * (growth**4 - 1) - 2 * target * y0 * (growth**2 - 1)
    result = GeodesicSharpness(rho=rho, metric=metric)(loss)
    assert result.value == pytest.approx(expected, rel=1e-10)
    if metric == "inv":  # the whole geodesic, of which this is the second order, and its slope
        exact = y0**2 * math.expm1(4 * b) - 2 * target * y0 * math.expm1(2 * b)
        assert result.value == pytest.approx(exact, rel=5 * abs(b) ** 2)
    small = GeodesicSharpness(rho=1e-5, metric=metric, num_starts=1)(loss).value
    slope = 4 * y0 * abs(y0 - target) / math.sqrt(2) if metric == "inv" else 4 * abs(y0 - target) / math.sqrt(2)
    assert small == pytest.approx(slope * 1e-5, rel=1e-3)


@pytest.mark.parametrize("metric", METRICS)
def test_for_small_radii_it_is_the_largest_eigenvalue_of_the_hessian_across_the_symmetry(metric: str) -> None:
    case = CASES["attention"]
    model, batches = case.build()
    loss = Loss(model, case.criterion, batches, dtype=torch.float64)
    # With its linear term taken away the loss has a stationary point at its own weights.
    w, gradient = loss.weights, loss.grad(loss.weights)
    geodesics, rho = Geodesics(w, find_pairs(loss), metric), 1e-3
    zero = torch.zeros_like(w)

    def value_and_grad(point: Tensor) -> tuple[float, Tensor]:
        value, slope = loss.value_and_grad(point)
        return value - float(gradient @ (point - w)), slope - gradient

    jacobian = torch.autograd.functional.jacobian(geodesics.point, zero)
    assert isinstance(jacobian, Tensor)
    across = torch.stack([geodesics.horizontal(e) for e in torch.eye(len(w), dtype=torch.float64)])
    hessian = across @ jacobian.T @ dense_hessian(case, model, batches, w) @ jacobian @ across
    torch.testing.assert_close(across @ across, across)
    torch.testing.assert_close(across, across.T)
    assert int(across.trace().round()) == len(w) - 2 * 2 * 2**2  # two pairs of two heads of width two
    values, vectors = torch.linalg.eigh(hessian)
    rise, slope = geodesics.pulled_back(rho * vectors[:, -1], value_and_grad)
    assert rise - loss.value(w) == pytest.approx(0.5 * rho**2 * float(values[-1]), rel=0.02)
    torch.testing.assert_close(slope / rho, values[-1] * vectors[:, -1], rtol=0, atol=0.05 * float(values[-1]))


def test_at_a_minimum_the_random_start_finds_the_curvature() -> None:
    # y0 = target: the gradient is zero. The rise is (f^2 - 1)^2 y0^2, f = 1 + b + b^2 / 2: 4 b^2 y0^2 for small b.
    model = OneToken(1).double()
    loss = Loss(model, F.mse_loss, [(torch.ones(1, 1), torch.ones(1, 1))], dtype=torch.float64)
    one, two = (GeodesicSharpness(rho=1e-3, steps=50, num_starts=n)(loss) for n in (1, 2))
    assert one.value == 0.0
    assert two.value == pytest.approx(4 * (1e-3 / math.sqrt(2)) ** 2, rel=3e-3)
    assert two.details()["largest_radius"] == pytest.approx(1e-3)


@pytest.mark.parametrize("metric", METRICS)
def test_other_weights_are_taken_adaptively_and_parts_are_averaged(metric: str) -> None:
    # Attention of a single token that is zero gives zero, so what is left is the bias of the last layer.
    class Shifted(OneToken):
        def __init__(self) -> None:
            super().__init__(2)
            self.shift = nn.Parameter(torch.tensor([3.0, 4.0]))

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + self.shift

    x, y = torch.zeros(3, 2), torch.tensor([[0.0, 0.0], [3.0, 3.0], [0.0, 5.0]])
    loss = Loss(Shifted().double(), F.mse_loss, [(x[:2], y[:2]), (x[2:], y[2:])], dtype=torch.float64)
    for m in (None, 1):
        ours = GeodesicSharpness(rho=0.1, metric=metric, m=m, num_starts=1)(loss)
        adaptive = WorstCaseSharpness(rho=0.1, m=m, num_starts=1)(loss)
        assert ours.value == pytest.approx(adaptive.value, rel=1e-9) and len(ours.parts) == len(adaptive.parts)


def test_records_are_plain_and_reproducible_and_the_network_stays() -> None:
    loss, reports = loss_of(timm_block), list[tuple[int, int]]()
    before = {name: tensor.clone() for name, tensor in loss.model.state_dict().items()}
    probe = GeodesicSharpness(rho=0.1, m=4, steps=4, seed=3)
    first = probe(loss, progress=lambda done, total: reports.append((done, total)))
    assert first.value == probe(loss).value
    other = GeodesicSharpness(rho=0.1, m=4, steps=4, seed=4)(loss)
    assert other.parts[0].largest[1] != first.parts[0].largest[1] and other.loss == first.loss
    assert reports == [(done, first.num_gradients) for done in range(1, first.num_gradients + 1)]
    record = json.loads(json.dumps(first.to_record().to_dict(), allow_nan=False))
    assert record["details"]["num_parts"] == 2 and record["seed"] == 3
    assert record["details"]["pairs"] == {"block query-key": 2, "block value-output": 2}
    assert "2 attention pairs" in str(first) and record["details"]["condition"] > 1
    assert all(torch.equal(before[name], tensor) for name, tensor in loss.model.state_dict().items())


def test_single_precision_agrees_with_double() -> None:
    double = loss_of(timm_block)
    single = Loss(double.model, F.mse_loss, double.batches, dtype=torch.float32)
    for metric in METRICS:
        values = [GeodesicSharpness(rho=0.1, metric=metric, steps=5)(loss).value for loss in (double, single)]
        assert values[1] == pytest.approx(values[0], rel=1e-2)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"rho": 0.0}, "positive rho"),
        ({"m": 0}, "at least 1 example"),
        ({"steps": 0}, "at least 1 step"),
        ({"num_starts": 0}, "at least 1 step and 1 start"),
        ({"metric": "invariant"}, "unknown metric 'invariant': expected one of inv, mix"),
    ],
)
def test_bad_knobs_are_refused(knobs: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        GeodesicSharpness(**knobs)(loss_of(timm_block))


def test_a_network_or_selection_without_pairs_is_refused() -> None:
    with pytest.raises(InputError, match=r"blocks \(torch.nn.MultiheadAttention, .*timm's qkv .* none in Sequential"):
        GeodesicSharpness()(small_network())
    with pytest.raises(InputError, match="got none: select them as parameters"):
        GeodesicSharpness()(small_network("attention").restricted("head.*"))
    with pytest.raises(InputError, match=r"all weights of block query-key in the flat vector, got 128 of 144: select"):
        GeodesicSharpness()(loss_of(timm_block, parameters="*.weight"))
    assert len(find_pairs(loss_of(timm_block, parameters=["*.qkv.*", "*.proj.weight"]))) == 2


class Turned(nn.Module):
    """Looks like timm's block, but multiplies queries and keys by numbers in between."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.qkv, self.proj = 2, nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        turn = torch.linspace(1, 3, 12, dtype=x.dtype).view(3, 4)
        seen = F.scaled_dot_product_attention(q * turn, k * turn, v)
        return self.proj(seen.transpose(1, 2).flatten(2))


def tied() -> nn.Module:
    first, second = timm_block(), timm_block()
    second.qkv = first.qkv
    return nn.Sequential(first, second)


def test_blocks_without_the_symmetry_are_refused() -> None:
    with pytest.raises(InputError, match="got another one for block query-key: the block uses more"):
        GeodesicSharpness()(loss_of(Turned))
    with pytest.raises(InputError, match=r"got another one for block\.attention query-key"):
        GeodesicSharpness()(loss_of(lambda: Rotary("Cohere")))  # turns the entries 2 i and 2 i + 1 together
    with pytest.raises(InputError, match="weights of their own, got shared ones"):
        GeodesicSharpness()(loss_of(tied))
    loss = loss_of(timm_block)
    w = loss.weights.clone()
    loss.layout.unflatten(w)["block.proj.weight"].zero_()
    with pytest.raises(InputError, match=r"rank 4 in each head of block value-output, got 0: hold this block fixed"):
        GeodesicSharpness()(loss, w)


def test_an_infinite_loss_is_an_error_of_one_line() -> None:
    model = OneToken(1).double()
    for parameter in model.parameters():
        nn.init.constant_(parameter, 1e20)
    for x, where in ((1e120, "at the weights"), (1.0, "on the geodesics")):  # loss (1e40 x)^2
        batch = (torch.full((1, 1), x, dtype=torch.float64), torch.zeros(1, 1))
        with pytest.raises(RunError, match=f"expected a finite loss .*{where}, got .*inf") as caught:
            GeodesicSharpness(rho=1e40)(Loss(model, F.mse_loss, [batch], dtype=torch.float64))
        assert "\n" not in str(caught.value)
