"""Folders of PEFT: the base found here, the adapter beside its layers, and only its own parameters measured."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from sharpness.checkpoints import load_into, read_checkpoint, recognise
from sharpness.checkpoints.adapters import LoraConfig, add_adapter, read_lora_config
from sharpness.checkpoints.views import plain_name
from sharpness.curvature import HessianOperator
from sharpness.errors import InputError
from sharpness.linalg.operators import to_dense
from sharpness.measure.points import point_of, with_far_end, with_points
from sharpness.measure.user_checkpoint import load_user_checkpoint
from tests.given_cases import mlp, seeded
from tests.test_given import CPU, as_request

PLAIN = LoraConfig(None, 8.0, {}, False, ())


def adapter_of(model: nn.Module, names: list[str], rank: int = 2, seed: int = 1) -> dict[str, Tensor]:
    """Return random matrices for linear layers, by the names of PEFT's files."""
    generator, tensors = torch.Generator().manual_seed(seed), dict[str, Tensor]()
    for name in names:
        out, into = dict(model.named_modules())[name].get_parameter("weight").shape
        tensors[f"base_model.model.{name}.lora_A.weight"] = torch.randn(rank, into, generator=generator) / 4
        tensors[f"base_model.model.{name}.lora_B.weight"] = torch.randn(out, rank, generator=generator) / 4
    return tensors


def save_adapter(folder: Path, tensors: dict[str, Tensor], **settings: Any) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "base_model_name_or_path": "org/base", "r": 2, "lora_alpha": 6} | settings
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def given(tmp_path: Path) -> tuple[list[str], nn.Module, dict[str, Tensor], Tensor, Tensor]:
    """An adapter folder, its base beside it, data, and the options that measure it."""
    base, generator = seeded(mlp), np.random.default_rng(0)
    torch.save(base.state_dict(), tmp_path / "base")
    x, y = generator.standard_normal((7, 1, 8, 8)).astype(np.float32), np.arange(7) % 4
    np.savez(tmp_path / "data.npz", x=x, y=y)
    tensors = adapter_of(base, ["1", "3"])
    folder = save_adapter(tmp_path / "adapter", tensors)
    options = [str(folder), "--model", "tests.given_cases:mlp", "--data", f"npz:{tmp_path / 'data.npz'}"]
    return options, base.double(), tensors, torch.from_numpy(x).double(), torch.from_numpy(y)


def merged(base: nn.Module, pieces: dict[str, Tensor], factor: float) -> dict[str, Tensor]:
    """Return the weights ``W + s B A`` of a network with linear layers."""
    state = {name: tensor.detach() for name, tensor in base.state_dict().items()}
    for name in [n.removesuffix(".lora_A.weight") for n in pieces if n.endswith("lora_A.weight")]:
        state[f"{name}.weight"] = state[f"{name}.weight"] + factor * (
            pieces[f"{name}.lora_B.weight"] @ pieces[f"{name}.lora_A.weight"]
        )
    return state


def test_the_hessian_is_that_of_the_adapter_s_parameters_alone(given: Any) -> None:
    options, base, tensors, x, y = given
    request, path = as_request(options, dtype="float64")
    found = load_user_checkpoint(request, path, CPU)
    loss = found.subject.loss
    assert loss.layout.names == ("1.lora_A.weight", "1.lora_B.weight", "3.lora_A.weight", "3.lora_B.weight")

    def value(w: Tensor) -> Tensor:
        parts = dict(zip(loss.layout.names, w.split(loss.layout.numels), strict=True))
        pieces = {n: p.view(s) for (n, p), s in zip(parts.items(), loss.layout.shapes, strict=True)}
        return F.cross_entropy(torch.func.functional_call(base, merged(base, pieces, 6 / 2), (x,)), y)

    w = torch.cat([tensors[f"base_model.model.{name}"].double().flatten() for name in loss.layout.names])
    assert torch.equal(loss.weights, w)
    assert loss.value(w) == pytest.approx(float(value(w)), rel=1e-10)
    dense = torch.autograd.functional.hessian(value, w)
    assert isinstance(dense, Tensor)
    torch.testing.assert_close(to_dense(HessianOperator(loss)), dense, rtol=1e-8, atol=1e-10)
    assert found.model.facts["base"].endswith("base") and len(found.model.facts["base_sha256"]) == 64
    assert "an adapter, beside 4 frozen tensors" in found.lines()[0]
    another = save_adapter(path.parent / "other", {name: 2 * t for name, t in tensors.items()})
    torch.testing.assert_close(point_of(request, another, loss).weights.double(), 2 * w)


def test_settings_choose_the_factor_and_what_else_is_trainable(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(2, 2))
    tensors = adapter_of(model, ["0", "1"]) | {"base_model.model.2.weight": torch.ones(2, 2)}
    settings = {"alpha_pattern": {"1": 12}, "use_rslora": True, "modules_to_save": ["2"]}
    config = read_lora_config(save_adapter(tmp_path, tensors, **settings))
    assert config.factor("0", 4) == 6 / 2 and config.factor("1", 4) == 12 / 2
    add_adapter(model, {name.removeprefix("base_model.model."): t for name, t in tensors.items()}, config)
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trainable == {n.removeprefix("base_model.model.") for n in tensors}
    report = load_into(model, read_checkpoint(tmp_path))
    assert report.fits and torch.equal(model.state_dict()["2.weight"], torch.ones(2, 2))


class _Tied(nn.Module):
    """A language model of one layer, whose head has the weight of the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens, self.middle, self.lm_head = nn.Embedding(5, 3), nn.Linear(3, 3), nn.Linear(3, 5, bias=False)
        self.lm_head.weight = self.embed_tokens.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.lm_head(self.middle(self.embed_tokens(x)))


@pytest.mark.parametrize(
    ("settings", "whole"),
    [
        ({"modules_to_save": ["embed_tokens"]}, ["embed_tokens"]),
        ({"modules_to_save": ["head"]}, ["lm_head"]),
        ({"modules_to_save": ["embed_tokens", "lm_head"]}, ["embed_tokens", "lm_head"]),
        ({"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}, ["embed_tokens"]),  # tied in name only
        ({"modules_to_save": ["inner.embed_tokens"], "ensure_weight_tying": True}, ["embed_tokens", "lm_head"]),
    ],
)
def test_a_module_that_was_trained_whole_leaves_those_it_was_tied_to(
    tmp_path: Path, settings: dict[str, Any], whole: list[str]
) -> None:
    model, tied = nn.Sequential(), settings.get("ensure_weight_tying") is True and len(whole) == 2
    model.add_module("inner", seeded(_Tied))
    inner: Any = model.get_submodule("inner")
    matrices = adapter_of(model, ["inner.middle"])
    weights = {"lm_head": inner.lm_head.weight.detach().clone(), "embed_tokens": inner.lm_head.weight.detach().clone()}
    weights |= {name: torch.full((5, 3), 2.0 + (0 if tied else i)) for i, name in enumerate(whole)}
    a, b = (matrices[f"base_model.model.inner.middle.lora_{letter}.weight"] for letter in "AB")
    x = torch.arange(5)
    hidden = F.linear(weights["embed_tokens"], inner.middle.weight + 3 * b @ a, inner.middle.bias)
    expected = F.linear(hidden, weights["lm_head"])
    tensors = matrices | {f"base_model.model.inner.{name}.weight": weights[name] for name in whole}
    config = read_lora_config(save_adapter(tmp_path, tensors, **settings))
    add_adapter(model, {name.removeprefix("base_model.model."): t for name, t in tensors.items()}, config)
    assert load_into(model, read_checkpoint(tmp_path)).fits
    torch.testing.assert_close(model(x), expected)
    assert (inner.lm_head.weight is inner.embed_tokens.weight) == tied
    trainable = {n for n, p in model.named_parameters(remove_duplicate=False) if p.requires_grad}
    assert trainable == {name.removeprefix("base_model.model.") for name in tensors}


def test_every_kind_of_layer_returns_what_its_merged_weight_would() -> None:
    transformers = pytest.importorskip("transformers")
    generator = torch.Generator().manual_seed(0)
    layers = {
        "linear": (nn.Linear(3, 4), torch.randn(5, 3), "lora_A.weight", "lora_B.weight", lambda a, b: b @ a),
        "gpt": (
            transformers.pytorch_utils.Conv1D(4, 3),
            torch.randn(5, 3),
            "lora_A.weight",
            "lora_B.weight",
            lambda a, b: (b @ a).T,
        ),
        "conv": (
            nn.Conv2d(3, 4, 3, padding=1, stride=2),
            torch.randn(2, 3, 5, 5),
            "lora_A.weight",
            "lora_B.weight",
            lambda a, b: torch.einsum("or,rikl->oikl", b[:, :, 0, 0], a),
        ),
        "embedding": (
            nn.Embedding(7, 4, padding_idx=0),
            torch.tensor([[1, 6]]),
            "lora_embedding_A",
            "lora_embedding_B",
            lambda a, b: (b @ a).T,
        ),
    }
    shapes: dict[str, Any] = {"linear": ((2, 3), (4, 2)), "gpt": ((2, 3), (4, 2)), "embedding": ((2, 7), (4, 2))}
    shapes["conv"] = ((2, 3, 3, 3), (4, 2, 1, 1))
    for name, (layer, x, first, second, product) in layers.items():
        a, b = (torch.randn(shape, generator=generator) for shape in shapes[name])
        weights = {"weight": layer.weight.detach() + 4 * product(a, b)}
        expected = torch.func.functional_call(layer, weights, (x,))
        model = nn.Sequential()
        model.add_module("layer", layer)
        add_adapter(model, {f"layer.{first}": a, f"layer.{second}": b}, PLAIN)
        with torch.no_grad():
            dict(model.named_parameters())[f"layer.{first}"].copy_(a)
            dict(model.named_parameters())[f"layer.{second}"].copy_(b)
        torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)


def test_a_network_with_the_adapter_in_it_takes_the_folder_and_its_file(given: Any) -> None:
    options, _, tensors, *_ = given
    wrapped = load_user_checkpoint(
        as_request([options[0], "--model", "tests.test_adapters:wrapped", *options[3:]])[0], Path(options[0]), CPU
    )
    assert wrapped.subject.loss.layout.names == WRAPPED
    for name, piece in wrapped.subject.loss.layout.unflatten(wrapped.subject.loss.weights).items():
        assert torch.equal(piece, tensors[name.replace(".default", "")])
    request = as_request(
        [f"{options[0]}/adapter_model.safetensors", "--model", "tests.test_adapters:wrapped", *options[3:]]
    )
    assert load_user_checkpoint(*request, CPU).subject.loss.layout.names == WRAPPED


class _Adapted(nn.Module):
    """A linear layer as PEFT wraps it: the base layer inside, matrices under the name of the adapter."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base.requires_grad_(False)
        self.lora_A = nn.ModuleDict({"default": nn.Linear(base.in_features, 2, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(2, base.out_features, bias=False)})

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + 3 * self.lora_B["default"](self.lora_A["default"](x))


WRAPPED = tuple(f"base_model.model.{i}.lora_{m}.default.weight" for i in (1, 3) for m in "AB")


def wrapped() -> nn.Module:
    """Return the small network with adapters in it, under the names that ``get_peft_model`` gives."""
    net, outer, middle = seeded(mlp), nn.Sequential(), nn.Sequential()
    net[1], net[3] = _Adapted(net[1]), _Adapted(net[3])
    middle.add_module("model", net)
    outer.add_module("base_model", middle)
    return outer


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"peft_type": "IA3"}, ["LORA", "merge_and_unload"]),
        ({"use_dora": True}, ["use_dora", "merge_and_unload"]),
        ({"init_lora_weights": "pissa_niter_4"}, ["pissa", "merge_and_unload"]),
        ({"init_lora_weights": "lora_ga"}, ["lora_ga, which moves it", "merge_and_unload"]),
        ({"lora_alpha": "many"}, ["lora_alpha"]),
        ({"alpha_pattern": {"(a+)+$": 1}}, ["alpha_pattern"]),
        ({"alpha_pattern": [1]}, ["settings of an adapter"]),
        ({"base_model_name_or_path": "nowhere"}, ["nowhere", "--model hf:FOLDER"]),
        ({"base_model_name_or_path": None}, ["base_model_name_or_path"]),
        ({"base_model_name_or_path": "data.npz"}, ["data.npz"]),
    ],
)
def test_what_cannot_be_measured_is_one_line_with_its_cure(
    given: Any, settings: dict[str, Any], words: list[str]
) -> None:
    options, _, tensors, *_ = given
    save_adapter(Path(options[0]), tensors, **settings)
    with pytest.raises(InputError) as caught:
        load_user_checkpoint(*as_request(options), CPU)
    assert "\n" not in str(caught.value) and all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({}, None),
        ({"lora_alpha": 12}, "lora_alpha"),
        ({"use_rslora": True}, "use_rslora"),
        ({"alpha_pattern": {"1": 5}}, "alpha_pattern"),
        ({"base_model_name_or_path": "copy"}, None),
        ({"base_model_name_or_path": "moved"}, "base"),
    ],
)
def test_a_line_ends_at_an_adapter_of_the_same_scaling_and_base_alone(
    given: Any, settings: dict[str, Any], name: str | None
) -> None:
    options, base, tensors, *_ = given
    request, path = as_request(options)
    shutil.copy(path.parent / "base", path.parent / "copy")
    torch.save({name: 1.1 * tensor.float() for name, tensor in base.state_dict().items()}, path.parent / "moved")
    other = save_adapter(path.parent / "other", {name: 2 * t for name, t in tensors.items()}, **settings)
    first, second = (load_user_checkpoint(request, folder, CPU) for folder in (path, other))
    line = with_far_end(request, first, second, "other")
    if name is None:
        (end,) = line.points_for("interpolation")
        assert first.subject.loss.value(end.weights) == second.checked.evaluation.loss
        (same,) = with_points(request, first, "first", [("other", other)]).points_for("interpolation")
        assert torch.equal(same.weights, end.weights)
        return
    words = f"one scaling and base, got another {name} in"
    with pytest.raises(InputError, match=words):
        line.points_for("interpolation")
    with pytest.raises(InputError, match=words):
        with_points(request, first, "first", [("other", other)])


def test_matrices_of_other_layers_and_shapes_are_refused(given: Any) -> None:
    options, _, tensors, *_ = given
    first = next(iter(tensors))
    changes = {
        "which it has not": {"base_model.model.9.lora_A.weight": torch.ones(2, 3)},
        "not the base": {first: torch.ones(2, 5)},
        "linear, convolution": {"base_model.model.2.lora_A.weight": torch.ones(2, 3)},
        "matrices A and B": {"base_model.model.1.lora_magnitude_vector": torch.ones(6)},
    }
    for words, change in changes.items():
        save_adapter(Path(options[0]), tensors | change)
        with pytest.raises(InputError, match=words):
            load_user_checkpoint(*as_request(options), CPU)


def sentences() -> list[dict[str, Tensor]]:
    tokens = torch.randint(19, (5, 6), generator=torch.Generator().manual_seed(2))
    return [{"input_ids": tokens, "labels": tokens}]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")  # of the two libraries about each other
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
@pytest.mark.parametrize("whole", [None, ["wte"], ["lm_head"], ["wte", "lm_head"]])
def test_a_folder_of_peft_itself_is_the_network_that_it_loads(tmp_path: Path, whole: list[str] | None) -> None:
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_layer=2, n_head=2, n_embd=8, vocab_size=19, n_positions=16)
    model = transformers.GPT2LMHeadModel(config).eval()
    model.save_pretrained(tmp_path / "base")
    settings = peft.LoraConfig(
        r=2,
        lora_alpha=5,
        target_modules=["c_attn", "c_fc"],
        task_type="CAUSAL_LM",
        fan_in_fan_out=True,
        alpha_pattern={"c_fc": 3},
        modules_to_save=whole,
    )
    adapted = peft.get_peft_model(transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "base"), settings).eval()
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.2)
    adapted.peft_config["default"].base_model_name_or_path = "base"
    adapted.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    assert recognise(tmp_path / "adapter") == "adapter folder"
    options = [str(tmp_path / "adapter"), "--data", "tests.test_adapters:sentences"]
    found = load_user_checkpoint(*as_request(options), CPU)
    with torch.no_grad():
        expected = float(adapted(**sentences()[0]).loss)
    assert found.checked.evaluation.loss == pytest.approx(expected, rel=1e-5)
    names = {plain_name(name) for name, p in adapted.named_parameters() if p.requires_grad}
    assert {f"base_model.model.{name}" for name in found.subject.loss.layout.names} == names
