"""Code of the user's own is found in the working folder, which hides nothing that is installed."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from sharpness.errors import InputError
from sharpness.machine.users_code import import_object

SHADOWED = ("colorsys", "matplotlib", "wave")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working folder, with files that have the names of libraries."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in SHADOWED:
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('not the library')\n")
    return tmp_path


def test_a_module_of_the_working_folder_is_found_and_shadows_no_other(folder: Path) -> None:
    (folder / "own_factory.py").write_text("import colorsys, wave\ndef make(): return colorsys.__file__\n")
    make = import_object("own_factory:make", "a model")
    assert make() and not Path(make()).is_relative_to(folder)
    for name in ("colorsys", "matplotlib", "wave"):
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.origin is not None and not Path(spec.origin).is_relative_to(folder)
    sys.modules.pop("own_factory")


def test_a_file_with_the_name_of_an_installed_module_is_told_to_be_renamed(folder: Path) -> None:
    with pytest.raises(InputError, match=r"unknown object 'make'.*name of wave.py.*rename"):
        import_object("wave:make", "a model")
    with pytest.raises(InputError, match=r"expected a model as package.module:object"):
        import_object("wave.py", "a model")
