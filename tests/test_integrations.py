"""The tracker in the trainers of other libraries, with the real one where it is installed, and its other sinks."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import sharpness as sh
from sharpness.files import read_jsonl
from sharpness.integrations import lightning, sinks
from sharpness.integrations import transformers as hugging_face
from sharpness.training.tracker import clock


class Ticking:
    """A clock that moves by a second with every batch that a trainer takes, and the batches."""

    def __init__(self) -> None:
        self.now = 0.0
        self.batches = list[dict[str, Tensor]]()

    def perf_counter(self) -> float:
        return self.now

    def collated(self, examples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        self.now += 1.0
        self.batches.append({name: torch.stack([each[name] for each in examples]) for name in examples[0]})
        return self.batches[-1]


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Ticking:
    ticking = Ticking()
    monkeypatch.setattr(clock, "time", ticking)
    return ticking


def hugging_face_run(folder: Path, time: Ticking, callbacks: list[Any]) -> nn.Module:
    """Train a language model with dropout and accumulated batches by the Trainer."""
    from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=20, n_positions=8))
    tokens = [torch.randint(20, (8,)) for _ in range(160)]
    data: Any = [{"input_ids": each, "labels": each} for each in tokens]
    settings: dict[str, Any] = {"num_train_epochs": 2, "report_to": [], "use_cpu": True, "save_strategy": "no"}
    settings |= {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "eval_strategy": "epoch"}
    arguments = TrainingArguments(str(folder), disable_tqdm=True, seed=1, **settings)
    options: Any = {"train_dataset": data, "eval_dataset": data[:8], "data_collator": time.collated}
    Trainer(model, arguments, callbacks=callbacks, **options).train()
    return model


@pytest.mark.dear
def test_the_trainer_of_transformers_is_tracked_and_trains_as_without(tmp_path: Path, time: Ticking) -> None:
    from transformers import TrainerCallback

    callback = hugging_face.SharpnessCallback(overhead=1.0)
    second = hugging_face.SharpnessCallback(overhead=1.0, quantities=["top_eigenvalue"], sink=None)
    assert isinstance(callback, TrainerCallback)
    alone = hugging_face_run(tmp_path / "alone", time, [])
    model = hugging_face_run(tmp_path / "tracked", time, [callback, second])
    assert all(map(torch.equal, alone.state_dict().values(), model.state_dict().values()))
    rows = read_jsonl(tmp_path / "tracked" / "track.jsonl")
    assert callback.tracker is not None and rows == callback.tracker.rows and len(rows) > 6
    assert [row["step"] for row in rows] == sorted({row["step"] for row in rows}) and rows[-1]["step"] == 40
    assert rows[-1]["epoch"] == 2
    assert {"preconditioned_sharpness", "critical_sharpness"} <= {name for row in rows for name in row}
    assert not [name for row in rows for name in row if name.endswith("value_reason")]
    assert all(row["examples"] in (4, 8, 16) for row in rows)  # the last batch of an update, or up to four kept ones
    assert callback.tracker.clip_norm == 1.0  # the Trainer's default
    assert not model._forward_pre_hooks
    with pytest.raises(sh.InputError, match="named inputs, got none"):  # the last batch is forgotten
        callback.on_step_end(None, None, None, model=model)
    assert second.tracker is not None and second.tracker.rows[-1]["step"] == 40
    loss = sh.Loss(model, None, time.batches[1:8:2])  # the last batches of the first four updates
    assert second.tracker.rows[-1]["examples"] == loss.num_examples == 16
    assert second.tracker.rows[-1]["top_eigenvalue"] == pytest.approx(sh.TopEigenvalues()(loss).value, rel=0.05)


def test_a_model_without_named_inputs_is_refused(tmp_path: Path) -> None:
    callback, model = hugging_face.SharpnessCallback(), nn.Linear(2, 1)
    arguments = SimpleNamespace(output_dir=str(tmp_path), max_grad_norm=0)
    callback.on_train_begin(arguments, None, None, model=model)
    model(torch.zeros(1, 2))
    with pytest.raises(sh.InputError, match="named inputs, got none: use sharpness"):
        callback.on_step_end(arguments, SimpleNamespace(global_step=1, epoch=0.5), None, model=model, optimizer=None)


class Module(nn.Module):
    """The part of a LightningModule that the callback knows."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(), nn.Linear(6, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def lightning_run(folder: Path, time: Ticking, callback: Any, optimizers: int = 1) -> tuple[nn.Module, Any]:
    """Train as Lightning's Trainer does, calling the hooks that it calls; every second batch ends an update."""
    module = Module()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    trainer = SimpleNamespace(optimizers=[optimizer] * optimizers, global_step=0, default_root_dir=str(folder))
    trainer.current_epoch = 3
    trainer.gradient_clip_val, trainer.gradient_clip_algorithm = 0.5, None
    callback.on_train_start(trainer, module)
    generator = torch.Generator().manual_seed(0)
    for number in range(100):
        batch = [torch.randn(8, 4, generator=generator), torch.randint(3, (8,), generator=generator)]
        time.now += 1.0
        loss = cross_entropy(module(batch[0]), batch[1])
        loss.backward()
        if number % 2:
            nn.utils.clip_grad_norm_(module.parameters(), 0.5)
            optimizer.step()
            optimizer.zero_grad()
            trainer.global_step += 1
        callback.on_train_batch_end(trainer, module, loss, batch, number)
    return module, trainer


def test_a_training_that_was_interrupted_leaves_no_second_hook(tmp_path: Path) -> None:
    model, arguments = nn.Linear(3, 2), SimpleNamespace(output_dir=tmp_path, max_grad_norm=1.0)
    callback = hugging_face.SharpnessCallback()
    callback.on_train_begin(arguments, None, None, model=model)  # which never ended
    callback.on_train_begin(arguments, None, None, model=model)
    callback.on_train_end(arguments, None, None)
    assert not model._forward_pre_hooks


def test_the_hooks_of_lightning_track_and_change_nothing(tmp_path: Path, time: Ticking) -> None:
    nothing = SimpleNamespace(on_train_start=lambda *_: None, on_train_batch_end=lambda *_: None)
    alone, _ = lightning_run(tmp_path, time, nothing)
    callback = lightning.SharpnessCallback(cross_entropy, overhead=0.9)
    module, trainer = lightning_run(tmp_path, time, callback)
    assert all(map(torch.equal, alone.state_dict().values(), module.state_dict().values()))
    rows = read_jsonl(tmp_path / "track.jsonl")
    assert callback.tracker is not None and rows == callback.tracker.rows and len(rows) > 6
    assert rows[-1]["step"] == trainer.global_step == 50 and rows[-1]["epoch"] == 3
    assert callback.tracker.clip_norm == 0.5
    with pytest.raises(sh.InputError, match="expected one optimizer, got 2"):
        lightning_run(tmp_path, time, callback, optimizers=2)


def test_the_base_of_the_callback_is_that_of_the_lightning_that_was_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    assert lightning.SharpnessCallback.__mro__[1] is object or "pytorch_lightning" in sys.modules
    base = type("Callback", (), {})
    monkeypatch.setitem(sys.modules, "pytorch_lightning", SimpleNamespace(Callback=base))
    try:
        assert isinstance(importlib.reload(lightning).SharpnessCallback(None), base)
    finally:
        monkeypatch.undo()
        importlib.reload(lightning)


ROW = {"step": 7, "critical_sharpness": 2.0, "top_eigenvalue": None, "top_eigenvalue_reason": "no memory"}


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_the_sinks_shaped_like_wandb_log_the_numbers(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    library, begun, logged = ModuleType(name), list[Any](), list[Any]()
    library.__dict__.update(init=lambda **settings: begun.append(settings), log=logged.append)
    monkeypatch.setitem(sys.modules, name, library)
    make = getattr(sinks, name)
    make()(ROW)
    assert begun == []  # the run in progress
    make(project="p")(ROW)
    assert begun == [{"project": "p"}]
    assert logged == 2 * [{"sharpness/step": 7, "sharpness/critical_sharpness": 2.0}]


def test_the_sink_of_tensorboard_writes_scalars(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    written = list[Any]()

    class Writer:
        def __init__(self, folder: str) -> None:
            written.append(folder)

        def add_scalar(self, *arguments: Any) -> None:
            written.append(arguments)

        def flush(self) -> None:
            written.append("flush")

    library = ModuleType("torch.utils.tensorboard")
    library.__dict__["SummaryWriter"] = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", library)
    sinks.tensorboard(tmp_path)(ROW)
    scalars = [("sharpness/step", 7, 7), ("sharpness/critical_sharpness", 2.0, 7)]
    assert written == [str(tmp_path), *scalars, "flush"]


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "trackio"])
def test_a_sink_that_is_not_installed_says_so(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    modules: dict[str, Any] = sys.modules
    monkeypatch.setitem(modules, {"tensorboard": "torch.utils.tensorboard"}.get(name, name), None)
    with pytest.raises(sh.InputError, match=f"expected {name} to be installed, got .*: pip install {name}"):
        getattr(sinks, name)(*([tmp_path] if name == "tensorboard" else []))
