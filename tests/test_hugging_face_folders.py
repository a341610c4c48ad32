"""Folders of Hugging Face, whole and in several files, with weights that are tied and names with and without a base."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sharpness.checkpoints import load_into, read_checkpoint
from sharpness.errors import InputError
from tests.checkpoint_cases import holds

transformers = pytest.importorskip("transformers")


def language_model(seed: int) -> Any:
    config = transformers.GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=11, n_positions=16)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return transformers.GPT2LMHeadModel(config)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model saved whole, in several files, and as pickles."""
    folder, model = tmp_path_factory.mktemp("models"), language_model(1)
    model.save_pretrained(folder / "whole")
    model.save_pretrained(folder / "shards", max_shard_size="2KB")
    (folder / "pickles").mkdir()
    shutil.copy(folder / "whole" / "config.json", folder / "pickles")
    torch.save(model.state_dict(), folder / "pickles" / "pytorch_model.bin")
    model.transformer.save_pretrained(folder / "base")
    return folder


@pytest.mark.parametrize("kind", ["whole", "shards", "pickles", "base"])
def test_a_folder_loads_with_its_tied_weights(kind: str, saved: Path) -> None:
    model = language_model(2)
    report = load_into(model, read_checkpoint(saved / kind))
    assert report.fits and holds(model, language_model(1).state_dict())
    assert ("lm_head.weight" in report.used) == (kind == "pickles")


def test_shards_load_by_their_index_and_have_a_digest_of_their_own(saved: Path) -> None:
    index = saved / "shards" / "model.safetensors.index.json"
    assert len(set(json.loads(index.read_text())["weight_map"].values())) > 2
    checkpoint = read_checkpoint(index)
    assert checkpoint.kind == "sharded" and checkpoint.sha256 == read_checkpoint(saved / "shards").sha256
    assert load_into(language_model(2), checkpoint).fits


def test_pickles_in_several_files_load(saved: Path, tmp_path: Path) -> None:
    state = load_file(saved / "whole" / "model.safetensors")
    places = {name: f"pytorch_model-{number % 2}.bin" for number, name in enumerate(state)}
    for file in set(places.values()):
        torch.save({name: state[name] for name in state if places[name] == file}, tmp_path / file)
    index = {"metadata": {"total_size": sum(t.numel() * 4 for t in state.values())}, "weight_map": places}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    shutil.copy(saved / "whole" / "config.json", tmp_path)
    model = language_model(2)
    assert load_into(model, read_checkpoint(tmp_path)).fits
    assert holds(model, language_model(1).state_dict())


def test_the_links_of_the_cache_are_followed(saved: Path, tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "snapshots" / "0123abc", tmp_path / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, file in enumerate(sorted((saved / "shards").iterdir())):
        shutil.copy(file, blobs / str(number))
        (snapshot / file.name).symlink_to(os.path.relpath(blobs / str(number), snapshot))
    assert load_into(language_model(2), read_checkpoint(snapshot)).fits


def test_buffers_that_are_no_longer_saved_are_not_unexpected(saved: Path, tmp_path: Path) -> None:
    state = load_file(saved / "whole" / "model.safetensors")
    old = {
        "transformer.h.0.attn.bias": torch.ones(1, 1, 16, 16),
        "transformer.h.0.attn.masked_bias": torch.tensor(-1e4),
    }
    save_file(state | old, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"1 unexpected \(transformer.h.0.attn.masked_bias\)"):
        load_into(language_model(2), read_checkpoint(tmp_path / "model.safetensors"))
    save_file(state | dict(list(old.items())[:1]), tmp_path / "model.safetensors")
    assert load_into(language_model(2), read_checkpoint(tmp_path / "model.safetensors")).fits


def test_different_tensors_for_tied_weights_are_refused(saved: Path, tmp_path: Path) -> None:
    state = load_file(saved / "whole" / "model.safetensors")
    save_file(state | {"lm_head.weight": torch.ones(11, 8)}, tmp_path / "model.safetensors")
    model = language_model(2)
    with pytest.raises(InputError, match=r"one tensor for lm_head.weight, transformer.wte.weight, which are tied"):
        load_into(model, read_checkpoint(tmp_path / "model.safetensors"))
    assert holds(model, language_model(2).state_dict())
