"""Optional libraries beside a torch that they were not built for: what goes on, what is refused, and the cure."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.conftest import ROOT, run_cold_python

STARTS_WITH_NO_OPERATORS = """
import torch
@torch.library.register_fake("torchvision::nms")
def shapes(*arguments): ...
resnet = "one"
"""
BROKEN = 'raise RuntimeError("operator torchvision::nms does not exist")'
LOADS = """
import sys, torch
from sharpness.machine.extras import extra
before = torch.library.register_fake
for name in {names}:
    try:
        library = extra(name, name.partition(".")[0])
        print(name, getattr(library, "resnet", "is there"))
    except Exception as error:
        print(name, type(error).__name__, error)
print(sys.modules.get("torchvision", "no torchvision"), torch.library.register_fake is before)
"""
CURE = "pip install --force-reinstall 'torch=="


def loaded(tmp_path: Path, planted: str, *names: str) -> tuple[list[str], str]:
    """Return what loading libraries printed beside a planted torchvision, and what was warned of."""
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(planted)
    path = os.pathsep.join([str(tmp_path), str(ROOT)])  # without the shim of the tests
    result = run_cold_python("-c", LOADS.format(names=names), environment={"PYTHONPATH": path})
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines(), result.stderr


@pytest.mark.dear
def test_a_torchvision_without_its_operators_is_loaded_with_a_warning(tmp_path: Path) -> None:
    (found, switch), warned = loaded(tmp_path, STARTS_WITH_NO_OPERATORS, "torchvision")
    assert found == "torchvision one" and switch.endswith("True")
    assert warned.count("\n") == 1 and CURE in warned and "torchvision::nms does not exist" in warned


@pytest.mark.slow  # it loads timm and transformers from nothing
def test_a_broken_torchvision_is_named_with_its_cure_and_transformers_go_without(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    lines, warned = loaded(tmp_path, BROKEN, "timm", "torchvision.models", "transformers.models.bert.modeling_bert")
    for line in lines[:2]:
        assert "InputError expected a torchvision that fits this torch" in line and CURE in line
    assert lines[2].endswith("is there") and lines[3] == "no torchvision True"
    assert warned.count("\n") == 1 and CURE in warned and "transformers goes without" in warned
