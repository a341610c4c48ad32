"""Networks by name: parameter counts from the papers' layers, gradients, seeds, input shapes; ghost batch norm."""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass, replace
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sharpness.config import ModelConfig
from sharpness.errors import InputError
from sharpness.loss import Loss
from sharpness.loss.eval_mode import batch_norms
from sharpness.models import BATCH_NORMS, MODELS, build_model, check_model
from sharpness.models.norms import GhostBatchNorm, GhostBatchNorm1d, GhostBatchNorm2d, with_ghost_norm
from sharpness.models.transformer import Block, CharacterTransformer, tokens_of
from sharpness.models.user_model import load_model
from sharpness.vectors import flatten

MNIST, CIFAR, TEXT = (1, 28, 28), (3, 32, 32), (1, 1, 16)
VGG11 = (3, 64, 128, 256, 256, 512, 512, 512, 512)
VGG16 = (3, 64, 64, 128, 128, *(256,) * 3, *(512,) * 6)


def dense(*widths: int) -> int:
    """Return the weights and biases of linear layers one after the other."""
    return sum(before * after + after for before, after in itertools.pairwise(widths))


def convs(side: int, *channels: int) -> int:
    """Return the weights of convolutions one after the other, without biases."""
    return sum(side**2 * before * after for before, after in itertools.pairwise(channels))


def stage(before: int, after: int, blocks: int) -> int:
    """Return the weights of residual blocks of two convolutions, the shortcut of the first included."""
    return convs(3, before, *(after,) * 2 * blocks) + (before * after if before != after else 0)


def resnet(blocks: int, norm: int) -> int:
    """Return the count of a ResNet; ``norm`` parameters for each channel that is normalised, or one bias."""
    weights = convs(3, 3, 16) + stage(16, 16, blocks) + stage(16, 32, blocks) + stage(32, 64, blocks)
    return weights + norm * (16 + 2 * blocks * (16 + 32 + 64) + 32 + 64) + dense(64, 10)


def wide_resnet(norm: int) -> int:
    """Return the count of WideResNet-16-4, two blocks a stage: each convolution of 3 x 3 goes into one of the norms."""
    weights = convs(3, 3, 16) + stage(16, 64, 2) + stage(64, 128, 2) + stage(128, 256, 2)
    return weights + norm * (16 + 4 * (64 + 128 + 256)) + dense(256, 10)


def transformer(width: int, depth: int, norm: int) -> int:
    """Return the count of a transformer without its output layer; ``norm`` parameters for each normalised number."""
    block = 3 * width**2 + dense(width, width) + dense(width, 4 * width, width)
    return 256 * width + depth * block + norm * width * (2 * depth + 1)


@dataclass(frozen=True)
class Row:
    """A network, what it is built for, and how many parameters it then has."""

    name: str
    shape: tuple[int, int, int]
    classes: int
    norm: str
    count: int


ROWS = (
    Row("f1", MNIST, 10, "batch", dense(784, *[512] * 5, 10) + 5 * 2 * 512),
    Row("f1", MNIST, 10, "none", dense(784, *[512] * 5, 10)),
    Row("f1_small", MNIST, 10, "batch", dense(784, 64, 64, 10) + 2 * 2 * 64),
    Row("f1_narrow", MNIST, 10, "batch", dense(784, *[128] * 5, 10) + 5 * 2 * 128),
    Row("f2", (1, 1, 360), 1973, "batch", dense(360, *[512] * 7, 1973) + 7 * 2 * 512),
    Row("c1", CIFAR, 10, "batch", convs(5, 3, 64, 64) + 3 * 128 + dense(64 * 8 * 8, 384, 192, 10) + 2 * (384 + 192)),
    Row("c1", CIFAR, 10, "none", convs(5, 3, 64, 64) + 128 + dense(64 * 8 * 8, 384, 192, 10)),
    Row("c3", CIFAR, 100, "batch", convs(5, 3, 64, 64) + 3 * 128 + dense(64 * 8 * 8, 384, 192, 100) + 2 * (384 + 192)),
    Row("c2", CIFAR, 10, "batch", convs(3, *VGG16) + 3 * sum(VGG16[1:]) + dense(512, 512, 10) + 2 * 512),
    Row("c4", CIFAR, 100, "running", convs(3, *VGG16) + 3 * sum(VGG16[1:]) + dense(512, 512, 100) + 2 * 512),
    Row("smith_le", MNIST, 10, "none", dense(784, 800, 10)),
    Row("cohen_tanh", CIFAR, 10, "none", dense(3072, 200, 200, 10)),
    Row("fc_1024", MNIST, 10, "none", dense(784, 1024, 10)),
    Row("fc_1024_1024", MNIST, 10, "none", dense(784, 1024, 1024, 10)),
    Row("fc_128_128_128", MNIST, 10, "none", dense(784, 128, 128, 128, 10)),
    Row("fc_256_256_256", MNIST, 10, "none", dense(784, 256, 256, 256, 10)),
    Row("fc_512_512_512", MNIST, 10, "none", dense(784, 512, 512, 512, 10)),
    Row("fc_1024_1024_1024", MNIST, 10, "none", dense(784, 1024, 1024, 1024, 10)),
    Row("fc_2048_2048_2048", MNIST, 10, "none", dense(784, 2048, 2048, 2048, 10)),
    Row("simple_cnn_narrow", MNIST, 10, "none", convs(5, 1, 16, 32) + 48 + dense(32 * 7 * 7, 512, 10)),
    Row("simple_cnn", MNIST, 10, "none", convs(5, 1, 32, 64) + 96 + dense(64 * 7 * 7, 1024, 10)),
    Row("simple_cnn_wide", MNIST, 10, "none", convs(5, 1, 64, 128) + 192 + dense(128 * 7 * 7, 2048, 10)),
    Row("strided_cnn", MNIST, 10, "none", convs(3, 1, 16, 32) + 48 + dense(32 * 7 * 7, 256, 10)),
    Row("resnet8", CIFAR, 10, "running", resnet(1, norm=2)),
    Row("resnet8", CIFAR, 10, "none", resnet(1, norm=1)),
    Row("resnet20", CIFAR, 10, "running", resnet(3, norm=2)),
    Row("resnet20", CIFAR, 10, "none", resnet(3, norm=1)),
    Row("resnet44", CIFAR, 10, "running", resnet(7, norm=2)),
    Row("resnet44", CIFAR, 10, "none", resnet(7, norm=1)),
    Row("wide_resnet16_4", CIFAR, 10, "running", wide_resnet(norm=2)),
    Row("wide_resnet16_4", CIFAR, 10, "none", wide_resnet(norm=1)),
    Row("vgg11", CIFAR, 10, "running", convs(3, *VGG11) + 3 * sum(VGG11[1:]) + dense(512, 4096, 4096, 10)),
    Row("vgg16", CIFAR, 10, "running", convs(3, *VGG16) + 3 * sum(VGG16[1:]) + dense(512, 512, 512, 10)),
    Row("vgg16", CIFAR, 10, "none", convs(3, *VGG16) + sum(VGG16[1:]) + dense(512, 512, 512, 10)),
    Row("char_transformer_small", TEXT, 65, "layer", transformer(32, 1, norm=2) + dense(32, 65)),
    Row("char_transformer", TEXT, 65, "layer", transformer(128, 2, norm=2) + dense(128, 65)),
    Row("char_transformer", TEXT, 65, "rms", transformer(128, 2, norm=1) + dense(128, 65)),
    Row("char_transformer_tied", TEXT, 256, "rms", transformer(128, 2, norm=1)),
    Row("char_transformer_wide", TEXT, 256, "layer", transformer(256, 4, norm=2) + dense(256, 256)),
)
IMAGE_NETWORKS = sorted(
    {row.name for row in ROWS if "running" in MODELS[row.name].norms} | {"simple_cnn", "cohen_tanh"}
)


def built(row: Row, seed: int = 0) -> nn.Module:
    return build_model(ModelConfig(row.name, row.norm), row.shape, row.classes, seed)  # type: ignore[arg-type]


def pixels(count: int, shape: tuple[int, int, int]) -> Tensor:
    """Return bytes drawn uniformly, divided by 255."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(256, (count, *shape), generator=generator) / 255


def test_every_network_has_a_row() -> None:
    assert {row.name for row in ROWS} == set(MODELS)
    assert all("\n" not in info.description and len(info.description) < 100 for info in MODELS.values())


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.name}-{row.norm}")
def test_counts_and_gradients(row: Row) -> None:
    model = built(row).train()
    parameters = dict(model.named_parameters())
    assert sum(p.numel() for p in parameters.values()) == row.count
    output = model(pixels(3, row.shape))
    places = row.shape[2:] if row.shape == TEXT else ()  # a text has a prediction for each of its places
    assert output.shape == (3, row.classes, *places) and output.dtype == torch.float32
    F.cross_entropy(output, torch.arange(3).view(3, *[1] * len(places)).expand(3, *places)).backward()
    for name, p in parameters.items():
        assert p.grad is not None and bool(p.grad.isfinite().all()), name
        # A bias before BatchNorm moves nothing: its gradient is zero but for rounding.
        assert p.grad.any() or (p.ndim == 1 and row.norm in BATCH_NORMS), name
    assert bool(batch_norms(model)) == (row.norm in BATCH_NORMS)
    assert all((norm.running_mean is not None) == (row.norm == "running") for norm in batch_norms(model))


@pytest.mark.parametrize("row", [row for row in ROWS if row.norm == MODELS[row.name].norms[-1]], ids=lambda r: r.name)
def test_weights_are_those_of_the_seed(row: Row) -> None:
    state = torch.get_rng_state()
    model, again, other = (flatten(built(row, seed)) for seed in (3, 3, 4))
    assert torch.equal(model, again) and not torch.equal(model, other)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("shape", [MNIST, CIFAR])
@pytest.mark.parametrize("name", IMAGE_NETWORKS)
def test_image_networks_take_both_sizes(name: str, shape: tuple[int, int, int]) -> None:
    model = build_model(ModelConfig(name, MODELS[name].norms[-1]), shape, 7, seed=0).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        assert model(pixels(2, shape)).shape == (2, 7)


def test_papers_counts() -> None:
    counts = {(row.name, row.norm): row.count for row in ROWS}
    assert counts["f1", "batch"] == 1_462_794
    # He et al. 2016, table 6, in millions; their shortcuts have no parameters, which the second decimal does not show.
    assert [round(counts[f"resnet{depth}", "running"] / 1e6, 2) for depth in (20, 44)] == [0.27, 0.66]


def test_the_weights_of_c1_are_glorot_uniform_and_of_a_resnet_he_normal() -> None:
    c1 = build_model(ModelConfig("c1"), CIFAR, 10, seed=0)
    for layer in (c1[4], c1[9]):  # type: ignore[index]
        fans = sum(layer.weight.shape[:2]) * layer.weight[0, 0].numel()
        bound = (6 / fans) ** 0.5
        assert 0.99 * bound < layer.weight.abs().max() <= bound and not layer.bias.any()
    conv = build_model(ModelConfig("resnet8"), CIFAR, 10, seed=0).get_submodule("stage3.0.conv1")  # 32 to 64 channels
    assert isinstance(conv.weight, Tensor)
    assert float(conv.weight.detach().std()) == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.03)
    hidden = build_model(ModelConfig("vgg11"), CIFAR, 10, seed=0)[-1]  # type: ignore[index]
    assert float(hidden.weight.detach().std()) == pytest.approx(0.01, rel=0.03) and not hidden.bias.any()


LETTERS = {
    **{nn.Conv2d: "C", nn.BatchNorm1d: "N", nn.BatchNorm2d: "N", nn.ReLU: "R", nn.Tanh: "T", nn.MaxPool2d: "P"},
    **{nn.Dropout: "D", nn.Flatten: "F", nn.Linear: "L", nn.Identity: ""},
}


@pytest.mark.parametrize(
    ("name", "letters", "dropouts"),
    [
        ("f1", "F LNR LNR LNR LNR LNR L", []),
        ("c1", "CNRP CNRP F LNRD LNRD L", [0.5, 0.5]),
        (
            "c2",
            "CNRDCNRP CNRDCNRP CNRDCNRDCNRP CNRDCNRDCNRP CNRDCNRDCNRP F DLNRDL",
            [0.3, 0.4, *[0.4] * 6, 0.5, 0.5],
        ),
        ("smith_le", "F LR L", []),
        ("cohen_tanh", "F LT LT L", []),
        ("simple_cnn", "CRP CRP F LRD L", [0.4]),
        ("vgg11", "CNRP CNRP CNRCNRP CNRCNRP CNRCNRP F DLRDLRL", [0.5, 0.5]),
    ],
)
def test_layers_follow_each_other_as_the_authors_have_them(name: str, letters: str, dropouts: list[float]) -> None:
    layers = list(build_model(ModelConfig(name, MODELS[name].norms[0]), CIFAR, 10, seed=0))  # type: ignore[arg-type]
    assert "".join(LETTERS[type(layer)] for layer in layers) == letters.replace(" ", "")
    assert [layer.p for layer in layers if isinstance(layer, nn.Dropout)] == dropouts
    if name == "c1":
        pools = [layer for layer in layers if isinstance(layer, nn.MaxPool2d)]
        assert [(pool.kernel_size, pool.stride, pool.padding) for pool in pools] == [(3, 2, 1)] * 2


@pytest.mark.parametrize(("name", "channels"), [("resnet20", (16, 32, 64)), ("wide_resnet16_4", (64, 128, 256))])
def test_stages_halve_the_image(name: str, channels: tuple[int, ...]) -> None:
    x, shapes = pixels(2, CIFAR), {}
    with torch.no_grad():
        for part, module in build_model(ModelConfig(name), CIFAR, 10, seed=0).named_children():
            x = module(x)
            shapes[part] = tuple(x.shape[1:])
    wanted = zip(channels, (32, 16, 8), strict=True)
    assert [shapes[f"stage{i}"] for i in (1, 2, 3)] == [(count, side, side) for count, side in wanted]


def test_a_wide_block_is_its_formula() -> None:
    model = build_model(ModelConfig("wide_resnet16_4", "running"), CIFAR, 10, seed=0).double().eval()
    block, x = model.get_submodule("stage2.0"), torch.randn(2, 64, 8, 8, dtype=torch.float64)
    kernels = {name: p for name, p in block.named_parameters() if p.ndim == 4}
    active = torch.relu(x / (1 + 1e-5) ** 0.5)  # untrained norms: mean 0, variance 1
    inner = torch.relu(F.conv2d(active, kernels["conv1.weight"], stride=2, padding=1) / (1 + 1e-5) ** 0.5)
    wanted = F.conv2d(inner, kernels["conv2.weight"], padding=1) + F.conv2d(
        active, kernels["shortcut.weight"], stride=2
    )
    torch.testing.assert_close(block(x.clone()), wanted)
    plain = build_model(ModelConfig("wide_resnet16_4", "none"), CIFAR, 10, seed=0).get_submodule("stage2.1")
    y = torch.randn(1, 128, 4, 4)
    before = y.clone()
    plain(y)
    assert torch.equal(y, before)  # the shortcut gets what came in, not its ReLU


@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_bytes_see_none_that_follow_at_any_length(norm: Literal["layer", "rms"]) -> None:
    model = build_model(ModelConfig("char_transformer", norm), (1, 1, 12), 5, seed=0).double()
    assert isinstance(model, CharacterTransformer)
    tokens = torch.randint(256, (2, 40))  # longer than the windows it was built for
    changed = tokens.clone()
    changed[:, 7] = (changed[:, 7] + 1) % 256
    with torch.no_grad():
        states, others = model.states(tokens), model.states(changed)
        moved = (states - others).abs().amax(dim=(0, 2))
        torch.testing.assert_close(model(tokens), model(tokens.view(2, 1, 1, 40).float() / 255))
        torch.testing.assert_close(model(tokens)[..., :9], model(tokens[:, :9]))
    quotients = torch.arange(256).view(1, 1, 1, 256) / 255
    for numbers in (quotients, torch.nextafter(quotients, torch.zeros(()))):  # as divided elsewhere, one bit off
        assert torch.equal(tokens_of(numbers), torch.arange(256).view(1, 256))
    assert float(moved[:7].max()) < 1e-12 and float(moved[7:].min()) > 1e-6


def test_a_transformer_is_that_of_torchs_own_layer_with_turned_queries_and_keys() -> None:
    # One head without its turn is torch's attention; the turn is a product with complex numbers.
    block = Block(32, nn.LayerNorm).double()
    x = torch.randn(3, 7, 32, dtype=torch.float64)
    with torch.no_grad():
        q, k, v = block.queries_keys_values(block.norm1(x)).chunk(3, -1)
        rates = torch.tensor([10000 ** (-2 * i / 32) for i in range(16)], dtype=torch.float64)
        turns = torch.exp(1j * torch.arange(7, dtype=torch.float64)[:, None] * rates)
        q, k = (torch.complex(part[..., :16], part[..., 16:]) * turns for part in (q, k))
        scores = torch.einsum("nti,nsi->nts", q, k.conj()).real / 32**0.5
        scores.masked_fill_(torch.ones(7, 7).triu(1).bool(), -torch.inf)
        y = x + block.heads(scores.softmax(-1) @ v)
        wanted = y + block.mlp(block.norm2(y))
        torch.testing.assert_close(block(x), wanted, rtol=1e-10, atol=1e-12)


def test_tied_embeddings_give_the_logits() -> None:
    model = build_model(ModelConfig("char_transformer_tied", "rms"), TEXT, 256, seed=0)
    assert isinstance(model, CharacterTransformer)
    tokens = torch.randint(256, (2, 9))
    with torch.no_grad():
        wanted = torch.einsum("ntw,kw->nkt", model.states(tokens), model.characters.weight)
        torch.testing.assert_close(model(tokens), wanted)


@pytest.mark.parametrize(
    ("config", "shape", "message"),
    [
        (ModelConfig("smith_le"), MNIST, "norm = 'none' for smith_le, got 'batch'"),
        (ModelConfig("f1", "none", ghost_batch=8), MNIST, "leave ghost_batch out"),
        (ModelConfig("f1", ghost_batch=1), MNIST, "at least 2 examples, got 1"),
        (ModelConfig("f1", ghost_batch=8, synchronised=True), MNIST, "got both"),
        (ModelConfig("c1"), (784,), r"channels x height x width for this network, got \(784,\)"),
        (ModelConfig("simple_cnn", "none"), (1, 3, 9), "at least 4 x 4 for this network, got 3 x 9"),
        (ModelConfig("char_transformer", "layer"), CIFAR, "1 x 1 x T bytes"),
        (ModelConfig("char_transformer", "none"), TEXT, "norm = 'layer' or 'rms' for char_transformer, got 'none'"),
        (ModelConfig("f1", "rms"), MNIST, "norm = 'batch' or 'running' or 'none' for f1, got 'rms'"),
        (ModelConfig("char_transformer_tied", "rms"), TEXT, "expected 256 classes"),
    ],
)
def test_what_cannot_be_built_is_refused(config: ModelConfig, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_model(config, shape, 10, seed=0)


def test_f1_keeps_the_names_of_its_parameters() -> None:
    names = [f"{3 * layer + kind}.{part}" for layer in range(5) for kind in (1, 2) for part in ("weight", "bias")]
    model = build_model(ModelConfig(), MNIST, 10, seed=0)
    assert [name for name, _ in model.named_parameters()] == [*names, "16.weight", "16.bias"]


GHOST_CASES = [
    (GhostBatchNorm1d, nn.BatchNorm1d, (5,), 12, [4, 4, 4]),
    (GhostBatchNorm1d, nn.BatchNorm1d, (5,), 9, [4, 5]),  # the last one joins the one before
    (GhostBatchNorm1d, nn.BatchNorm1d, (5, 3), 10, [4, 4, 2]),
    (GhostBatchNorm2d, nn.BatchNorm2d, (5, 3, 2), 11, [4, 4, 3]),
    (GhostBatchNorm2d, nn.BatchNorm2d, (5, 3, 2), 5, [5]),
]


@pytest.mark.parametrize(("ghost", "plain", "shape", "count", "sizes"), GHOST_CASES)
def test_ghosts_are_normalised_by_their_own_statistics(
    ghost: type[GhostBatchNorm], plain: type[nn.Module], shape: tuple[int, ...], count: int, sizes: list[int]
) -> None:
    torch.manual_seed(0)
    x = torch.randn(count, *shape, dtype=torch.float64).mul_(torch.arange(1, count + 1).view(-1, *[1] * len(shape)))
    norm = ghost(5, 4, momentum=0.3).double()
    assert isinstance(norm, plain) and batch_norms(norm) == [norm]
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            assert tensor is not None
            tensor.uniform_(0.5, 2)
    means, variances = norm.running_mean.clone(), norm.running_var.clone()  # type: ignore[union-attr]
    chunks, axes = x.split(sizes), (0, *range(2, x.ndim))
    wide = (-1, *[1] * (x.ndim - 2))
    wanted = []
    for chunk in chunks:
        mean, variance = chunk.mean(axes), chunk.var(axes, correction=0)
        scaled = (chunk - mean.view(wide)) / (variance + 1e-5).sqrt().view(wide)
        wanted.append(scaled * norm.weight.view(wide) + norm.bias.view(wide))
    output = norm(x)
    torch.testing.assert_close(output, torch.cat(wanted))
    n = len(chunks)
    for running, start, told in (
        (norm.running_mean, means, [chunk.mean(axes) for chunk in chunks]),
        (norm.running_var, variances, [chunk.var(axes) for chunk in chunks]),
    ):
        parts = [0.7 ** (n - i) * 0.3 * value for i, value in enumerate(told, 1)]
        torch.testing.assert_close(running, 0.7**n * start + torch.stack(parts).sum(0))
    assert norm.num_batches_tracked == n
    norm.eval()
    whole = (x - norm.running_mean.view(wide)) / (norm.running_var + 1e-5).sqrt().view(wide)  # type: ignore[union-attr]
    torch.testing.assert_close(norm(x), whole * norm.weight.view(wide) + norm.bias.view(wide))


def network(norm: str) -> nn.Module:
    """Return a small network with norms of both kinds, after a pass that moves its running statistics."""
    torch.manual_seed(0)
    track = norm == "running"
    norms = nn.BatchNorm2d(3, 1e-2, 0.3, track_running_stats=track), nn.BatchNorm1d(4, 1e-3, track_running_stats=track)
    model = nn.Sequential(
        *(nn.Conv2d(1, 3, 3), norms[0], nn.ReLU(), nn.Flatten()),
        *(nn.Linear(48, 4), norms[1], nn.Linear(4, 3)),
    ).double()
    model(torch.randn(6, 1, 6, 6, dtype=torch.float64))
    return model


@pytest.mark.parametrize("norm", ["batch", "running"])
def test_a_ghost_of_the_whole_batch_is_batch_norm(norm: str) -> None:
    plain, x = network(norm), torch.randn(7, 1, 6, 6, dtype=torch.float64)
    same, other = (with_ghost_norm(copy.deepcopy(plain), size) for size in (7, 3))
    assert list(plain.state_dict()) == list(same.state_dict())
    outputs = [model.train()(x) for model in (plain, same, other)]
    torch.testing.assert_close(outputs[0], outputs[1], rtol=0, atol=0)
    assert not torch.allclose(outputs[0], outputs[2])
    for ours, theirs in zip(plain.state_dict().values(), same.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)


def test_the_norms_of_a_network_are_replaced_in_place() -> None:
    model = network("running").eval()
    before = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    assert with_ghost_norm(model, 3) is model
    after = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    assert all(after[name] is tensor for name, tensor in before.items()) and len(after) == len(before)
    assert [type(norm) for norm in batch_norms(model)] == [GhostBatchNorm2d, GhostBatchNorm1d]
    assert not any(module.training for module in model.modules())
    with pytest.raises(InputError, match="got GhostBatchNorm2d"):
        with_ghost_norm(model, 3)
    with pytest.raises(InputError, match="got one without"):
        with_ghost_norm(nn.Linear(2, 2), 3)
    shared = nn.BatchNorm1d(4)
    twice = with_ghost_norm(nn.Sequential(shared, nn.ReLU(), shared), 3)
    assert twice[0] is twice[2] and isinstance(twice[0], GhostBatchNorm1d)  # type: ignore[index]


@pytest.mark.parametrize(("norm", "mode"), [("running", "frozen"), ("running", "recalibrate"), ("batch", "batch")])
def test_measurements_see_whole_batches(norm: str, mode: str) -> None:
    # In training mode, as in the middle of a run: there the next pass of the network cuts its batch into ghosts.
    plain = network(norm).train()
    ghosts = with_ghost_norm(copy.deepcopy(plain), 2).train()
    torch.manual_seed(1)
    batches = [(torch.randn(n, 1, 6, 6, dtype=torch.float64), torch.arange(n) % 3) for n in (6, 4)]
    loss, other = (Loss(model, F.cross_entropy, batches, norm=mode, dtype=torch.float64) for model in (plain, ghosts))
    assert loss.evaluate(loss.weights) == other.evaluate(other.weights)
    if mode != "recalibrate":  # which defines values only
        assert torch.equal(loss.grad(loss.weights), other.grad(other.weights))
    buffers = [each.buffers_at(each.weights, batches) for each in (loss, other)]
    if mode == "recalibrate":
        assert buffers[0] is not None and buffers[1] is not None
        assert all(torch.equal(buffers[1][name], value) for name, value in buffers[0].items())
    x = batches[0][0]
    assert all(module.training for module in ghosts.modules()) and not torch.allclose(plain(x), ghosts(x))


def test_build_model_takes_ghost_batches() -> None:
    config = ModelConfig("resnet8", "running", ghost_batch=2)
    model = build_model(config, CIFAR, 10, seed=0)
    plain = build_model(replace(config, ghost_batch=None), CIFAR, 10, seed=0)
    assert all(isinstance(norm, GhostBatchNorm) for norm in batch_norms(model))
    x = pixels(4, CIFAR)
    with torch.no_grad():
        # Ghosts of two do not see each other, so that two batches of two give the same.
        torch.testing.assert_close(model.train()(x), torch.cat([plain.train()(half) for half in x.split(2)]))
    assert list(model.state_dict()) == list(plain.state_dict())
    check_model(config)


@pytest.mark.parametrize("norm", ["none", "running"])
def test_a_spec_names_the_norm_as_a_config_does(norm: Literal["none", "running"]) -> None:
    config = ModelConfig("resnet8", norm)
    named = load_model(f"resnet8,norm={norm}", CIFAR, 10).model
    assert str(named) == str(build_model(config, CIFAR, 10, seed=0).eval())
