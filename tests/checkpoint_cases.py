"""A small network with weights of its own, and what other programs wrap around weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from sharpness.checkpoints import Checkpoint, read_checkpoint

State = Mapping[str, Tensor]


def network(classes: int = 3) -> nn.Sequential:
    layers = {"conv": nn.Conv2d(1, 2, 3), "norm": nn.BatchNorm2d(2), "flat": nn.Flatten(), "fc": nn.Linear(8, classes)}
    model = nn.Sequential()
    for name, layer in layers.items():
        model.add_module(name, layer)
    return model


def trained(seed: int = 1) -> nn.Sequential:
    """Return a network in which every tensor has values of its own."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = network()
        for tensor in model.state_dict().values():
            tensor.copy_(torch.randint(100, tensor.shape) if tensor.dtype == torch.int64 else torch.randn(tensor.shape))
    return model


def prefixed(prefix: str, state: State) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def inside(wrapper: str, state: State) -> dict[str, Tensor]:
    return {name.replace(".", f".{wrapper}."): tensor for name, tensor in state.items()}


def cast(state: State, dtype: torch.dtype) -> dict[str, Tensor]:
    return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in state.items()}


def without_counts(state: State) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}


def lightning(state: State, prefix: str = "net.", **others: Any) -> dict[str, Any]:
    """Return what Lightning saves around a network: an optimizer, callbacks and hyperparameters beside it."""
    model = trained(2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 1, 4, 4)).sum().backward()
    optimizer.step()
    facts = {"epoch": 3, "global_step": 9, "pytorch-lightning_version": "2.5.0", "hyper_parameters": {"lr": 0.1}}
    states = {"optimizer_states": [optimizer.state_dict()], "lr_schedulers": [{"last_epoch": 3}], "loops": {"fit": {}}}
    return (
        facts
        | states
        | {"callbacks": {"best": {"score": torch.tensor(0.5)}}, "state_dict": prefixed(prefix, state)}
        | others
    )


def averaging(current: State) -> dict[str, Any]:
    """Return what Lightning's averaging of weights puts beside them."""
    return {"current_model_state": current, "averaging_state": {"n_averaged": torch.tensor(3)}}


S, OTHER = trained().state_dict(), trained(5).state_dict()
AVERAGED = AveragedModel(trained()).state_dict()


def compiled_in_part() -> dict[str, Tensor]:
    model = trained()
    model.add_module("fc", compiled(model.get_submodule("fc")))
    return model.state_dict()


def compiled(model: nn.Module) -> nn.Module:
    """Wrap a network as ``torch.compile`` does; nothing is compiled before it is called.

    The names of the weights are the same with every backend, and the usual one takes seconds to load.
    """
    wrapped: Any = torch.compile(model, backend="eager")
    return wrapped


def saved(content: Any, path: Path) -> Checkpoint:
    torch.save(content, path)
    return read_checkpoint(path)


def holds(model: nn.Module, state: State) -> bool:
    """Say whether the tensors of a model are those given."""
    own = model.state_dict()
    return own.keys() == state.keys() and all(torch.equal(own[name], tensor) for name, tensor in state.items())
