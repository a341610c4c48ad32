"""Settings of files and sizes of data never lead to another loader, or to more memory than there is."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from sharpness.checkpoints import check_fit, load_into
from sharpness.data import user_data
from sharpness.errors import InputError
from sharpness.machine.memory import bounded_memory
from sharpness.measure.user_checkpoint import load_user_checkpoint
from sharpness.models import MODELS, sizing
from sharpness.models.user_model import load_model
from tests.checkpoint_cases import S, network, prefixed, saved
from tests.data_cases import refused, save_table
from tests.given_cases import classifier, mlp, seeded
from tests.test_given import CPU, as_request

LAYERS = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 8, "vocab_size": 9}
TIMM = {
    "architectures": ["TimmWrapperForImageClassification"],
    "model_type": "timm_wrapper",
    "architecture": "resnet18",
    "label_names": ["cat", "dog"],
    "num_classes": 2,
}
BERT = {"architectures": ["BertForMaskedLM"], "model_type": "bert", **LAYERS}
DETR = {"architectures": ["DetrForObjectDetection"], "model_type": "detr", "d_model": 16, "encoder_layers": 1}


class Runs:
    """An object whose unpickling writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.fixture
def hostile(tmp_path: Path) -> str:
    """Return the path of a pickle that would write a file beside it."""
    torch.save({"state_dict": Runs(tmp_path / "ran")}, tmp_path / "evil.pth")
    return str(tmp_path / "evil.pth")


def built(folder: Path, config: Mapping[str, Any]) -> nn.Module:
    (folder / "config.json").write_text(json.dumps(config))
    return load_model(f"hf:{folder}").model


LEADING: dict[str, tuple[dict[str, Any], str]] = {
    "a checkpoint of timm": (TIMM | {"model_args": {"checkpoint_path": "EVIL"}}, "got checkpoint_path"),
    "weights of timm": (TIMM | {"model_args": {"pretrained": True}}, "got pretrained"),
    "a config of timm": (TIMM | {"model_args": {"pretrained_cfg": {"file": "EVIL"}}}, "got pretrained_cfg"),
    "part of a config of timm": (TIMM | {"model_args": {"pretrained_cfg_overlay": {"file": "EVIL"}}}, "overlay"),
    "another class of timm": (TIMM | {"model_args": {"features_cls": "graph"}}, "got features_cls"),
    "a folder of timm": (TIMM | {"model_args": {"cache_dir": "/"}}, "got cache_dir"),
    "a folder as architecture": (TIMM | {"architecture": "local-dir:EVIL"}, "no path and no address"),
    "a repository as architecture": (TIMM | {"architecture": "hf-hub:evil/net"}, "no path and no address"),
    "a repository as backbone": (DETR | {"backbone": "evil/net"}, "no path and no address"),
    "options of a backbone": (DETR | {"backbone_kwargs": {"checkpoint_path": "EVIL"}}, "backbone_kwargs"),
    "a backbone inside": (
        DETR | {"backbone_config": {"model_type": "timm_backbone", "backbone": "hf-hub:evil/net"}},
        "no path and no address",
    ),
    "a table nobody knows": (BERT | {"loader": {"path": "EVIL"}}, "'loader'"),
    "layers without end": (BERT | {"num_hidden_layers": 10**9}, "at most 10000"),
    "labels without end": (BERT | {"num_labels": 10**9}, "at most 1000000"),
    "words without end": (BERT | {"vocab_size": 1 << 32}, "half of the free memory"),
    "code of its own": (BERT | {"architectures": ["EvilModel"]}, "never loaded"),
    "a name that is a list": (BERT | {"architectures": [["a"]]}, "add ,architecture="),
}


@pytest.mark.parametrize("name", LEADING)
def test_a_setting_that_leads_elsewhere_is_refused(name: str, tmp_path: Path, hostile: str) -> None:
    config, said = LEADING[name]
    with pytest.raises(InputError) as caught:
        built(tmp_path, json.loads(json.dumps(config).replace("EVIL", hostile)))
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


HARMLESS: dict[str, dict[str, Any]] = {
    "where it came from": {"_name_or_path": "somewhere/else", "transformers_version": "4.0", "finetuning_task": "a/b"},
    "code to fetch": {"auto_map": {"AutoModelForMaskedLM": "evil--model.Model"}, "custom_pipelines": {"a": "b"}},
    "a kernel": {"_attn_implementation": "evil/kernel", "attn_implementation": "evil/kernel"},
    "settings of older files": {"gradient_checkpointing": False, "position_embedding_type": "absolute", "old": None},
    "names for people": {"id2label": {"0": "a/b", "1": "c: d"}, "label2id": {"a/b": 0, "c: d": 1}},
}


@pytest.mark.parametrize("name", HARMLESS)
def test_settings_that_are_no_part_of_a_network_change_nothing(name: str, tmp_path: Path) -> None:
    plain, other = built(tmp_path, BERT).state_dict(), built(tmp_path, BERT | HARMLESS[name])
    assert all(torch.equal(tensor, plain[key]) for key, tensor in other.state_dict().items())
    settings: Any = other.config
    assert settings._attn_implementation != "evil/kernel" and not hasattr(settings, "auto_map")


def test_timm_inside_transformers_gets_the_options_that_say_what_a_network_is(tmp_path: Path) -> None:
    model = built(tmp_path, TIMM | {"model_args": {"in_chans": 1}, "pretrained_cfg": {"file": "x"}})
    assert model(pixel_values=torch.zeros(1, 1, 32, 32)).logits.shape == (1, 2)


@pytest.mark.parametrize("option", ["checkpoint_path=EVIL", "pretrained=true", "features_only=true", "cache_dir=x"])
@pytest.mark.parametrize("kind", ["timm", "torchvision"])
def test_options_of_libraries_are_those_that_say_what_a_network_is(kind: str, option: str, hostile: str) -> None:
    with pytest.raises(InputError, match=f"{kind}:resnet18.*got {option.partition('=')[0]}"):
        load_model(f"{kind}:resnet18,{option.replace('EVIL', hostile)}")
    assert not Path(hostile).with_name("ran").exists()
    with pytest.raises(InputError, match="plain words"):
        load_model(f"{kind}:resnet18,num_classes=../a")


def test_weights_of_a_backbone_are_not_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(*_: Any, **__: Any) -> None:
        raise AssertionError("fetched")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fetch)
    assert load_model("torchvision:lraspp_mobilenet_v3_large,num_classes=2").model.training is False


@pytest.mark.parametrize("name", ["f1", "vgg16"])
def test_a_network_larger_than_memory_is_refused_before_it_is_built(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = (1, 1, 1 << 20) if name == "f1" else (3, 32, 32)
    monkeypatch.setattr(sizing, "free_memory", lambda device: 16 << 20)
    places = list[str]()
    monkeypatch.setattr(sizing, "bounded_size", _watched(sizing.bounded_size, places))
    with pytest.raises(InputError, match=r"at most 8 MiB, half of the free memory, got one of \d+ MiB"):
        load_model(name, shape, 10)
    assert places == ["meta"]


def test_sizes_of_skeletons_are_those_of_the_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("f1_narrow", "c1", "resnet8", "char_transformer"):
        shape, seen = (1, 1, 32) if name == "char_transformer" else (3, 32, 32), list[int]()
        spec = f"{name},norm={MODELS[name].norms[-1]}"
        built = load_model(spec, shape, 10, fits=lambda model, seen=seen: seen.append(sizing.size_of(model)))
        assert seen == [sizing.size_of(built.model)] and seen[0] == sum(
            tensor.nbytes for tensor in (*built.model.parameters(), *built.model.buffers())
        )


def test_a_factory_that_takes_more_than_memory_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizing, "free_memory", lambda device: 1 << 10)
    with pytest.raises(InputError, match=r"tests.given_cases:mlp: .*half of the free memory"):
        load_model("tests.given_cases:mlp")


def test_a_network_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizing, "MAX_MODULES", 50)
    with pytest.raises(InputError, match="at most 50 modules, got more"):
        sizing.build_within_memory("deep", lambda: nn.Sequential(*(nn.Flatten() for _ in range(100))))


def test_a_library_that_needs_numbers_while_it_builds_is_built_all_the_same() -> None:
    made = sizing.build_within_memory("net", lambda: nn.Linear(int(torch.ones(3).sum().item()), 2))
    assert made.get_parameter("weight").shape == (2, 3)


def test_what_does_not_fit_the_file_is_refused_before_the_network_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = classifier(tmp_path, "tests.given_cases:mlp", seeded(mlp), 1, 8).arguments
    request, path = as_request(options, model="f1")
    places = list[str]()
    monkeypatch.setattr(sizing, "bounded_size", _watched(sizing.bounded_size, places))
    with pytest.raises(InputError, match="expected tensors of the model"):
        load_user_checkpoint(request, path, CPU)
    assert places == ["meta"]


def _watched(counted: Any, places: list[str]) -> Any:
    def watching(where: str, within: int | None = None) -> Any:
        places.append("meta" if within is None else "cpu")
        return counted(where, within)

    return watching


@pytest.mark.parametrize("content", [S, prefixed("module.", S), {"a": S, "b": S}, {"fc.weight": S["fc.weight"]}])
def test_a_skeleton_fits_where_the_network_does(content: Any, tmp_path: Path) -> None:
    checkpoint, model = saved(content, tmp_path / "model.pt"), network()
    with torch.device("meta"):
        skeleton = network()
    assert _said(lambda: check_fit(skeleton, checkpoint)) == _said(lambda: load_into(model, checkpoint))


def _said(work: Callable[[], Any]) -> str | None:
    try:
        work()
    except InputError as error:
        return str(error)
    return None


def test_what_a_process_may_take_is_bounded_for_a_while() -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with pytest.raises(MemoryError), bounded_memory():
        bytearray(1 << 50)
    with pytest.raises(RuntimeError, match="memory"), bounded_memory():
        torch.empty(1 << 50, dtype=torch.uint8)
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


def test_data_are_sized_before_memory_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    y = np.zeros(4, np.int64)
    np.savez_compressed(tmp_path / "wide.npz", x=np.zeros((4, 1 << 20), np.uint8), y=y)  # 16 MiB as floats
    np.savez_compressed(tmp_path / "small.npz", x=np.zeros((4, 1 << 20), np.int8), y=y)  # 32 MiB as int64
    np.savez_compressed(tmp_path / "masks.npz", x=np.zeros((4, 1), np.uint8), y=np.zeros((4, 1 << 20), np.uint8))
    for name in ("a", "b"):
        (tmp_path / "images" / name).mkdir(parents=True)
        Image.new("L", (20_000, 2)).save(tmp_path / "images" / name / "thin.png")  # 256 times as long as it is high
    monkeypatch.setattr(user_data, "free_memory", lambda device: 24 << 20)
    for text in ("npz:wide.npz", "npz:small.npz", "npz:masks.npz", "folder:images,size=64"):
        kind, _, name = text.partition(":")
        refused(f"{kind}:{tmp_path / name}", "half of the free memory", batch_size=4)
    request = user_data.DataRequest("hf:rows", 1)
    with pytest.raises(InputError, match="half of the free memory"):
        request.rows(1 << 40)


STATES: dict[str, dict[str, Any]] = {
    "a file above": {"_data_files": [{"filename": "../secret.arrow"}]},
    "a file that is no name": {"_data_files": [{"filename": 3}]},
    "options of a format": {"_format_type": "torch", "_format_kwargs": {"device": "cuda"}},
    "another library": {"_format_type": "tensorflow"},
}


@pytest.mark.parametrize("name", STATES)
def test_the_state_of_a_saved_dataset_leads_nowhere_else(name: str, tmp_path: Path) -> None:
    text = save_table(tmp_path / "t", {"x": [[1.0]] * 3, "y": [0, 1, 1]})
    state = tmp_path / "t" / "state.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | STATES[name]))
    refused(text, str(state), "expected")


@pytest.mark.parametrize("setting", [{"vocab_file": "/etc/passwd"}, {"mecab_kwargs": {"mecab_option": "-r x"}}])
def test_the_settings_of_a_tokenizer_lead_nowhere_else(setting: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"} | setting))
    (tmp_path / "a.txt").write_text("a b c")
    refused(f"text:{tmp_path / 'a.txt'},tokenizer={tmp_path}", "the tokenizer alone", next(iter(setting)))
