"""Networks trained side by side end with the weights that the trainer gives each of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sharpness.config import DataConfig, ModelConfig, RunConfig, ScheduleConfig, TrainingConfig
from sharpness.data import normalise
from sharpness.errors import InputError
from sharpness.models import build_model
from sharpness.runs import RunFolder
from sharpness.runs.networks import load_network, load_run_data
from sharpness.training import train
from tests.study_cases import script

side: Any = script("measures.side_by_side")

# 40 images make batches of 16, 16 and 8.
DATA = DataConfig(num_train=60, num_validation=20, num_test=20, evaluation_batch_size=20)
PLAIN = RunConfig(
    data=DATA,
    model=ModelConfig(name="f1_small", norm="none"),
    training=TrainingConfig(optimizer="momentum", batch_size=16, epochs=3),
    schedule=ScheduleConfig(kind="steps", milestones=(1.0, 2.0), warmup=0.7, warmup_from=0.25),
)
NORMED = replace(PLAIN, model=replace(PLAIN.model, norm="batch"))
CASES = {
    "momentum, warm-up, drops": PLAIN,
    "sgd, weight decay": replace(PLAIN, training=replace(PLAIN.training, optimizer="sgd", weight_decay=0.1)),
    "LARS, decay by the square": replace(
        PLAIN,
        training=replace(PLAIN.training, optimizer="lars", learning_rate=0.5, weight_decay=1e-2),
        schedule=ScheduleConfig(kind="polynomial", power=2.0, warmup=1.0),
    ),
    "BatchNorm, clipping": replace(NORMED, training=replace(NORMED.training, clip_norm=0.3)),
    "ghosts": replace(NORMED, model=replace(NORMED.model, ghost_batch=8)),
}


CASES["Nesterov"] = replace(PLAIN, training=replace(PLAIN.training, optimizer="nesterov", weight_decay=0.01))
CASES["convolutions"] = replace(PLAIN, model=ModelConfig(name="strided_cnn", norm="none"))
CASES["a transformer"] = replace(
    PLAIN, data=replace(DATA, name="kjv", context=16), model=ModelConfig("char_transformer_small", "rms")
)
POOLED = replace(PLAIN, model=ModelConfig(name="simple_cnn_narrow", norm="none"))


def with_value(config: RunConfig, value: float, seed: int) -> RunConfig:
    name = "trust" if config.training.optimizer == "lars" else "learning_rate"
    return replace(config, training=replace(config.training, **{name: value, "seed": seed}))


@pytest.mark.parametrize("name", CASES)
def test_each_copy_has_the_weights_and_the_error_of_the_trainer(name: str, tmp_path: Path) -> None:
    config, seeds, values, momenta = CASES[name], (3, 3, 4), (0.02, 0.1, 0.1), (0.9, 0.9, 0.5)
    if config.training.optimizer == "sgd":
        momenta = (0.0, 0.0, 0.0)
    data = load_run_data(config)
    assert data.held_out is not None
    inputs, held_out, device = normalise(data.train.inputs), normalise(data.held_out.inputs), torch.device("cpu")
    copies = side.copies_of(config, data.input_shape, data.num_classes, seeds, device)
    ends = side.train_side_by_side(config, copies, inputs, data.train.targets, seeds, values, momenta)
    assert list(ends) == list(range(1, 10))
    errors = copies.error(held_out, data.held_out.targets)
    for copy, (seed, value, momentum) in enumerate(zip(seeds, values, momenta, strict=True)):
        own = with_value(config, value, seed)
        own = replace(own, training=replace(own.training, momentum=momentum))
        run = RunFolder.create(tmp_path / f"{copy}", own)
        manifest = train(own, data, run, device)
        network = load_network(run, run.final_checkpoint(), data, device)
        for stacked, weight in zip(copies.weights, network.parameters(), strict=True):
            torch.testing.assert_close(stacked[copy].detach(), weight.detach(), rtol=2e-4, atol=2e-6)
        assert manifest["status"] == "finished"
        wrong = (network.train(False)(held_out).argmax(1) != data.held_out.targets).float().mean()
        assert float(errors[copy]) == pytest.approx(float(wrong))


def test_pooled_and_dropped_outputs_are_those_of_each_network() -> None:
    x, seeds, device = torch.rand(5, 1, 12, 12), (0, 7), torch.device("cpu")
    copies = side.copies_of(POOLED, (1, 12, 12), 10, seeds, device)
    networks = [build_model(POOLED.model, (1, 12, 12), 10, seed).eval() for seed in seeds]
    expected = torch.stack([network(x) for network in networks])
    both = x.expand(2, *x.shape)
    torch.testing.assert_close(copies.outputs(both), expected)
    assert not torch.equal(copies.outputs(both, training=True), copies.outputs(both, training=True))


def test_a_copy_that_diverges_is_found_and_leaves_the_others_alone() -> None:
    config = replace(CASES["sgd, weight decay"], schedule=ScheduleConfig())
    data, device = load_run_data(config), torch.device("cpu")
    inputs, targets = normalise(data.train.inputs).flatten(1), data.train.targets
    both, alone = (side.copies_of(config, data.input_shape, 10, seeds, device) for seeds in ([0, 0], [0]))
    list(side.train_side_by_side(config, both, inputs, targets, [0, 0], [1e30, 0.1]))
    list(side.train_side_by_side(config, alone, inputs, targets, [0], [0.1]))
    assert both.finite().tolist() == [False, True]
    for stacked, single in zip(both.weights, alone.weights, strict=True):
        torch.testing.assert_close(stacked[1], single[0])


def test_what_cannot_be_trained_side_by_side_is_refused() -> None:
    device = torch.device("cpu")
    running = replace(PLAIN, model=ModelConfig(name="f1_small", norm="running"))
    with pytest.raises(InputError, match="without running statistics"):
        side.copies_of(running, (1, 28, 28), 10, [0], device)
    adam = replace(PLAIN, training=replace(PLAIN.training, optimizer="adam"))
    with pytest.raises(InputError, match="use the trainer"):
        next(side.train_side_by_side(adam, None, torch.zeros(2, 3), torch.zeros(2), [0], [0.1]))
