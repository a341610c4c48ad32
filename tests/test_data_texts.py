"""Texts for language models: pieces, masks, and tokenizers that are missing, damaged or hostile."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sharpness.data import user_data
from sharpness.data.texts import mask_tokens
from sharpness.errors import InputError
from sharpness.loss import Loss
from sharpness.measure.guards import check_before_probing
from tests.data_cases import joined, load, refused, save_text, save_tokenizer
from tests.given_cases import seeded


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def test_a_text_is_cut_into_consecutive_pieces(tokenizer: Path, tmp_path: Path) -> None:
    text = save_text(tmp_path / "a.txt", 230)
    words = [int(word[1:]) + 3 for word in (tmp_path / "a.txt").read_text().split()]
    data = load(f"{text},length=50", tokenizer=tokenizer)
    batch = joined(data)
    assert batch["input_ids"].flatten().tolist() == words[:200]
    assert torch.equal(batch["labels"], batch["input_ids"]) and bool((batch["attention_mask"] == 1).all())
    assert data.notes == (
        "230 tokens cut into 4 pieces of 50, no special tokens added",
        "the last 30 tokens dropped",
    )
    assert joined(load(f"{text},tokenizer={tokenizer}"))["input_ids"].shape == (1, 128)
    assert joined(load(f"{text},length=1000", tokenizer=tokenizer))["input_ids"].tolist() == [words]


def test_masks_are_seeded_and_hide_what_the_labels_ask_for(tokenizer: Path, tmp_path: Path) -> None:
    text = f"{save_text(tmp_path / 'a.txt', 6000)},length=20"
    plain = joined(load(text, tokenizer=tokenizer))["input_ids"]
    data = load(f"{text},mask=0.3", tokenizer=tokenizer)
    batch = joined(data)
    chosen = batch["labels"] != -100
    assert torch.equal(batch["labels"][chosen], plain[chosen]) and torch.equal(
        batch["input_ids"][~chosen], plain[~chosen]
    )
    assert bool(chosen.any(1).all()) and f"{int(chosen.sum())} tokens masked with probability 0.3" in data.notes
    # 1800 of 6000 expected; a binomial count is within five standard deviations of its mean
    assert abs(int(chosen.sum()) - 1800) < 5 * (6000 * 0.3 * 0.7) ** 0.5
    hidden = batch["input_ids"][chosen]
    for count, share in ((hidden == 1, 0.8), (hidden == plain[chosen], 0.1 + 0.1 / 53)):
        assert abs(int(count.sum()) - share * len(hidden)) < 5 * (len(hidden) * share * (1 - share)) ** 0.5 + 10
    again, other = (joined(load(f"{text},mask=0.3", tokenizer=tokenizer, seed=seed))["labels"] for seed in (0, 1))
    assert torch.equal(again, batch["labels"]) and not torch.equal(other, batch["labels"])


def test_special_tokens_are_never_masked_but_every_piece_has_a_mask() -> None:
    pieces, generator = torch.arange(40).view(4, 10), torch.Generator().manual_seed(0)
    special = pieces % 2 == 0
    inputs, labels = mask_tokens(pieces, special, 99, 50, 1e-9, generator)
    assert (labels != -100).sum(1).tolist() == [1] * 4 and bool((labels[special] == -100).all())
    assert torch.equal(inputs[special], pieces[special])


def language_model(kind: str) -> nn.Module:
    """Return a small network of transformers over 53 tokens, with a dropout that evaluation switches off."""
    transformers, sizes = pytest.importorskip("transformers"), dict[str, Any](vocab_size=53, num_hidden_layers=1)
    if kind == "GPT2LMHeadModel":
        config = transformers.GPT2Config(vocab_size=53, n_layer=1, n_head=2, n_embd=8, n_positions=16)
    elif kind == "T5ForConditionalGeneration":
        sizes = {"vocab_size": 53, "num_layers": 1, "num_heads": 2, "d_model": 8, "d_kv": 4, "d_ff": 8}
        config = transformers.T5Config(**sizes, decoder_start_token_id=0)
    else:
        sizes |= {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8, "max_position_embeddings": 16}
        config = transformers.BertConfig(**sizes)
    return seeded(lambda: getattr(transformers, kind)(config))


class Begun(nn.Module):
    """A causal model that puts a token of its own first, so that each label has a place and none is seen."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(54, 53)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> Any:
        logits = self.table(F.pad(input_ids[:, :-1], (1, 0), value=53))
        return SimpleNamespace(loss=F.cross_entropy(logits.flatten(0, 1), labels.flatten()), logits=logits)


def test_a_network_that_would_copy_the_labels_it_sees_is_refused(tokenizer: Path, tmp_path: Path) -> None:
    text = f"{save_text(tmp_path / 'a.txt', 60)},length=12"
    plain, masked = (load(f"{text}{mask}", 2, tokenizer=tokenizer).batches for mask in ("", ",mask=0.3"))
    some: list[dict[str, Tensor]] = [dict(batch) for batch in plain]
    some[-1]["labels"] = some[-1]["labels"].flip(1)
    for kind in ("BertForMaskedLM", "T5ForConditionalGeneration"):
        model = language_model(kind)
        with pytest.raises(InputError, match=r"labels equal to the input_ids.*text:FILE,mask=0\.15.*encoder-decoder"):
            check_before_probing(lambda model=model: Loss(model, None, plain))
        for batches in (masked, some):
            check_before_probing(lambda model=model, batches=batches: Loss(model, None, batches))
    for model in (language_model("GPT2LMHeadModel"), seeded(Begun)):
        check_before_probing(lambda model=model: Loss(model, None, plain))


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ("", "expected the folder of a tokenizer, got none: add ,tokenizer=DIR"),
        (",tokenizer=nowhere", "nowhere: expected the folder of a tokenizer, got no folder"),
        (",length=1", "expected a whole number of at least 2 as length, got 1"),
        (",mask=0", "expected a probability in (0, 1] as mask, got 0"),
        (",mask=15", "expected a probability in (0, 1] as mask, got 15"),
        (",mask=yes", "expected a probability in (0, 1] as mask, got 'yes'"),
    ],
)
def test_bad_options_of_texts_are_refused(tmp_path: Path, options: str, part: str) -> None:
    refused(f"{save_text(tmp_path / 'a.txt', 30)}{options}", part)


def test_files_that_are_no_text_are_refused(tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    for content, part in ((b"", "got 0"), (b"w1", "got 1"), (b"w1 w2 \xff\xfe", "got other bytes at position 6")):
        path.write_bytes(content)
        refused(f"text:{path}", str(path), part, tokenizer=tokenizer)
    path.write_bytes(b"w1 " * 2**16)
    monkeypatch.setattr(user_data, "free_memory", lambda device: 2**22)
    refused(f"text:{path}", str(path), "half of the free memory, got 38 MiB", tokenizer=tokenizer)


def test_folders_without_a_usable_tokenizer_are_refused(tmp_path: Path) -> None:
    text = save_text(tmp_path / "a.txt", 30)
    refused(text, str(tmp_path), "expected a tokenizer that save_pretrained wrote", tokenizer=tmp_path)
    unmasked = save_tokenizer(tmp_path / "unmasked", mask_token=None)
    refused(f"{text},mask=0.15", "got one without: leave mask out", tokenizer=unmasked)
    assert load(text, tokenizer=unmasked).facts["examples"] == 1


def test_a_tokenizer_s_own_code_is_not_run(tmp_path: Path) -> None:
    text, folder = save_text(tmp_path / "a.txt", 30), save_tokenizer(tmp_path / "hostile")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config |= {"auto_map": {"AutoTokenizer": [None, "own.Own"]}, "tokenizer_class": "Own"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    marker = tmp_path / "marker"
    (folder / "own.py").write_text(f"open({str(marker)!r}, 'w')\nclass Own: pass\n")
    refused(text, str(folder), "expected a tokenizer that save_pretrained wrote", tokenizer=folder)
    assert not marker.exists()
