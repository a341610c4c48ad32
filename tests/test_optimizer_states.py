"""Adam's state in checkpoints, mapped to parameters by name however the optimiser was built and saved."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from sharpness.checkpoints import load_into, read_checkpoint
from sharpness.checkpoints.optimizer_files import find_states
from sharpness.checkpoints.optimizer_names import moments_by_name
from sharpness.checkpoints.optimizer_states import find_adam_states
from sharpness.cli.tables import records_table
from sharpness.curvature.preconditioned import adam_preconditioner
from sharpness.errors import InputError
from sharpness.loss import Loss
from sharpness.measure.runner import measure
from sharpness.measure.user_checkpoint import load_user_checkpoint
from sharpness.probes.preconditioned_sharpness import PreconditionedSharpness
from sharpness.runs import RecordFolder
from tests.checkpoint_cases import network, trained
from tests.given_cases import mlp, seeded
from tests.test_given import CPU, as_request

Optimizer = Callable[[nn.Module], torch.optim.Optimizer]


def split(model: nn.Module, second: Callable[[str, nn.Parameter], bool]) -> list[dict[str, Any]]:
    """Return the parameters in two groups, in order, those that ``second`` says without decay."""
    named = list(model.named_parameters())
    groups = [[p for n, p in named if second(n, p) == late] for late in (False, True)]
    return [{"params": params, "weight_decay": decay} for params, decay in zip(groups, (0.1, 0.0), strict=True)]


def step(model: nn.Module, optimizer: torch.optim.Optimizer, count: int = 3) -> torch.optim.Optimizer:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        for _ in range(count):
            optimizer.zero_grad()
            sum(((p * torch.randn_like(p)) ** 2).sum() for p in model.parameters() if p.requires_grad).backward()  # pyright: ignore[reportAttributeAccessIssue]
            optimizer.step()
    return optimizer


def found_in(content: Any, model: nn.Module, wanted: list[str] | None = None) -> dict[str, Any]:
    states, _ = find_adam_states(content)
    names = [n for n, _ in model.named_parameters()] if wanted is None else wanted
    return moments_by_name(states, model, None, names)[1]


def of_timm(model: nn.Module) -> torch.optim.Optimizer:
    from timm.optim._param_groups import param_groups_weight_decay

    return torch.optim.AdamW(param_groups_weight_decay(model, 0.1))  # the group without decay comes first


BUILT: dict[str, Optimizer] = {
    "all at once": lambda m: torch.optim.Adam(m.parameters()),
    "amsgrad": lambda m: torch.optim.AdamW(m.parameters(), amsgrad=True),
    "named, backwards": lambda m: torch.optim.AdamW(list(m.named_parameters())[::-1]),
    "matrices and others": lambda m: torch.optim.AdamW(split(m, lambda n, p: p.ndim < 2)),
    "others and matrices": lambda m: torch.optim.AdamW(split(m, lambda n, p: p.ndim < 2)[::-1]),
    "timm": of_timm,
    "biases apart": lambda m: torch.optim.AdamW(split(m, lambda n, p: n.endswith("bias"))),
    "head first": lambda m: torch.optim.Adam(split(m, lambda n, p: not n.startswith("fc"))),
    "three blocks": lambda m: torch.optim.Adam(
        [{"params": m.get_submodule(name).parameters()} for name in ("conv", "norm", "fc")]
    ),
}


@pytest.mark.parametrize("name", BUILT)
def test_each_parameter_gets_its_own_moments_however_the_groups_are_made(name: str) -> None:
    model = trained()
    optimizer = step(model, BUILT[name](model))
    moments = found_in({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, network())
    key = "max_exp_avg_sq" if name == "amsgrad" else "exp_avg_sq"
    for own, parameter in model.named_parameters():
        assert torch.equal(moments[own].second, optimizer.state[parameter][key]) and moments[own].step == 3


def test_the_groups_of_the_trainer_are_read_by_its_own_rule() -> None:
    transformers = pytest.importorskip("transformers")
    from transformers.trainer_pt_utils import get_parameter_names

    config = transformers.LlamaConfig(
        hidden_size=8, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2, vocab_size=11
    )
    model = transformers.LlamaForCausalLM(config)
    patterns = [r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"]
    decay = set(get_parameter_names(model, [nn.LayerNorm], patterns))
    optimizer = step(model, torch.optim.AdamW(split(model, lambda n, p: n not in decay)))
    assert 0 < len(optimizer.param_groups[1]["params"]) < len(decay)
    moments = found_in(optimizer.state_dict(), model)
    assert all(torch.equal(moments[n].second, optimizer.state[p]["exp_avg_sq"]) for n, p in model.named_parameters())


def test_every_spelling_of_a_file_is_found_and_its_order_counts(tmp_path: Path) -> None:
    def swapped() -> nn.Sequential:  # the same names and shapes as at training, in another order
        return nn.Sequential(OrderedDict(b=nn.Linear(3, 3), a=nn.Linear(3, 3)))

    trained_one = nn.Sequential(OrderedDict(a=nn.Linear(3, 3), b=nn.Linear(3, 3)))
    optimizer = step(trained_one, torch.optim.Adam(trained_one.parameters()))
    weights, state = trained_one.state_dict(), optimizer.state_dict()
    contents = {
        "optimizer": {"model": weights, "optimizer": state},
        "optimizer_state_dict": {"epoch": 3, "model_state_dict": weights, "optimizer_state_dict": state},
        "optimizer_states.0": {
            "state_dict": {f"net.{name}": t for name, t in weights.items()},
            "optimizer_states": [state],
            "lr_schedulers": [],
        },
        "trainer.optim": {"model": {f"module.{name}": t for name, t in weights.items()}, "trainer": {"optim": state}},
    }
    for place, content in contents.items():
        path = tmp_path / "checkpoint.pt"
        torch.save(content, path)
        model, found = swapped(), find_states(path)
        report = load_into(model, read_checkpoint(path))
        used, moments = moments_by_name(found.states, model, report, list(dict(model.named_parameters())))
        assert used.place == place and found.file == path
        for name, parameter in trained_one.named_parameters():
            assert torch.equal(moments[name].second, optimizer.state[parameter]["exp_avg_sq"])


def test_names_of_a_wrapped_network_are_read_without_the_wrapper(tmp_path: Path) -> None:
    inner, wrapped = trained(), nn.Module()
    wrapped.add_module("net", inner)
    optimizer = step(wrapped, torch.optim.Adam(list(wrapped.named_parameters())[::-1]))
    torch.save({"state_dict": wrapped.state_dict(), "optimizer_states": [optimizer.state_dict()]}, tmp_path / "a.ckpt")
    model = network()
    report = load_into(model, read_checkpoint(tmp_path / "a.ckpt"))
    _, moments = moments_by_name(find_states(tmp_path / "a.ckpt").states, model, report, ["fc.bias"])
    assert torch.equal(
        moments["fc.bias"].second, optimizer.state[dict(inner.named_parameters())["fc.bias"]]["exp_avg_sq"]
    )


def test_what_does_not_fit_or_fits_twice_is_refused_and_other_optimisers_are_told() -> None:
    model = trained()
    state = step(model, torch.optim.Adam(model.parameters())).state_dict()
    with pytest.raises(InputError, match="this network's parameters"):
        found_in(state, network(classes=4))
    twins = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    groups = [{"params": part.parameters(), "lr": 0.1 * (i + 1)} for i, part in enumerate(twins)]
    with pytest.raises(InputError, match="got 2: build"):
        found_in(step(twins, torch.optim.Adam(groups)).state_dict(), twins)
    other = step(model, torch.optim.Adam(model.parameters()), 2).state_dict()
    with pytest.raises(InputError, match="got 2: build"):
        found_in({"optimizer_states": [state, other]}, model)
    for parameter in list(model.parameters())[:2]:
        parameter.requires_grad_(False)
    frozen = step(model, torch.optim.Adam(p for p in model.parameters() if p.requires_grad)).state_dict()
    assert set(found_in(frozen, model, ["fc.weight"])) == {"norm.weight", "norm.bias", "fc.weight", "fc.bias"}
    with pytest.raises(InputError, match=r"none for conv\.weight, conv\.bias"):
        found_in(frozen, model)
    others = {"momentum_buffer": torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)}
    others |= {"exp_avg_sq": torch.optim.NAdam(model.parameters()), "exp_inf": torch.optim.Adamax(model.parameters())}
    for word, optimizer in others.items():
        states, reason = find_adam_states({"optimizer": step(model, optimizer).state_dict()})
        assert not states and "is not Adam" in reason and word in reason
    assert find_adam_states(torch.optim.Adam(model.parameters()).state_dict())[1].endswith("not made a step")
    assert find_adam_states(model.state_dict()) == ((), "it has no state of an optimiser")


@pytest.mark.parametrize(
    "group",
    [{"betas": (2.0, 0.9)}, {"betas": 3}, {"params": 5}, {"params": [7]}, {"eps": "x"}, {"param_names": ["a"]}],
)
def test_a_damaged_state_is_one_line(tmp_path: Path, group: dict[str, Any]) -> None:
    model = trained()
    state = step(model, torch.optim.Adam(model.parameters())).state_dict()
    state["param_groups"][0] |= group
    torch.save({"model": model.state_dict(), "optimizer": state}, tmp_path / "a.pt")
    with pytest.raises(InputError) as caught:
        moments_by_name(find_states(tmp_path / "a.pt").states, model, None, ["fc.bias"])
    assert "\n" not in str(caught.value)


def test_the_command_measures_with_the_state_and_says_so(tmp_path: Path) -> None:
    model, generator = seeded(mlp), np.random.default_rng(0)
    x = torch.from_numpy(generator.standard_normal((7, 1, 8, 8)).astype(np.float32))
    y = torch.arange(7) % 4
    np.savez(tmp_path / "data.npz", x=x.numpy(), y=y.numpy())
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2, betas=(0.8, 0.95))
    for _ in range(4):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "ckpt.pt")
    torch.save({"model": model.state_dict()}, tmp_path / "bare.pt")
    v = torch.cat([optimizer.state[p]["exp_avg_sq"].flatten() for p in model.parameters()])
    loss = Loss(model, F.cross_entropy, [(x, y)])
    p = adam_preconditioner(v, 4, beta1=0.8, beta2=0.95)
    options = ["--model", "tests.given_cases:mlp", "--data", f"npz:{tmp_path / 'data.npz'}"]
    records = []
    for name, probe in (("ckpt.pt", None), ("ckpt.pt", "gradients"), ("bare.pt", None)):
        request, path = as_request([str(tmp_path / name), *options])
        given = load_user_checkpoint(request, path, CPU)
        knobs = PreconditionedSharpness(source=probe, num_batches=2)
        outcome = measure(
            "preconditioned_sharpness", knobs, given.subject, RecordFolder(tmp_path / name.partition(".")[0])
        )
        assert outcome.record is not None
        records.append(outcome.record)
    state, gradients, bare = records
    assert state.value == pytest.approx(PreconditionedSharpness()(loss, preconditioner=p).value, rel=1e-4)
    assert state.details["edge_learning_rate"] == pytest.approx(2 * 1.8 / 0.2 / float(state.value or 0))
    assert state.details["preconditioner_source"] == "from the optimiser's state in ckpt.pt (optimizer), step 4"
    assert gradients.details["preconditioner_source"] == "from gradients at these weights"
    assert bare.details["preconditioner_source"].endswith("it has no state of an optimiser")
    assert bare.value == pytest.approx(gradients.value) != state.value
    assert "optimiser's state in ckpt.pt" in str(records_table([state], "").caption)


def test_a_file_of_its_own_is_looked_for_beside_the_weights_of_a_folder_only(tmp_path: Path) -> None:
    model = trained()
    optimizer = step(model, torch.optim.AdamW(split(model, lambda n, p: p.ndim < 2)))
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    for name in ("model.safetensors", "epoch-3.safetensors"):
        save_file(model.state_dict(), tmp_path / name)
    (tmp_path / "config.json").write_text("{}")
    for place in (tmp_path, tmp_path / "model.safetensors"):
        found = find_states(place)
        assert found.file.name == "optimizer.pt"
        moments = moments_by_name(found.states, network(), None, ["fc.weight"])[1]
        own = optimizer.state[dict(model.named_parameters())["fc.weight"]]
        assert torch.equal(moments["fc.weight"].second, own["exp_avg_sq"])
    assert not find_states(tmp_path / "epoch-3.safetensors").states
