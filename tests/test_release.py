"""The release: the built distributions, installed alone in a clean place, and what is said of them."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import PATIENCE, ROOT

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
SOURCES = ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "constraints.txt")
RUN = """
[data]
name = "fashion_mnist_10k"
num_train = 200
[model]
name = "f1_small"
[training]
batch_size = 50
epochs = 1
"""


def bounds(*extras: str) -> dict[str, str]:
    """Return the oldest version that is allowed of each direct dependency and of those of extras."""
    groups: dict[str, list[str]] = PROJECT["project"]["optional-dependencies"]
    asked = [*PROJECT["project"]["dependencies"], *(line for extra in extras for line in groups[extra])]
    return dict(line.split(">=") for line in asked)


def pins(file: str) -> dict[str, str]:
    """Return the versions of a file of constraints."""
    lines = [line for line in (ROOT / file).read_text().splitlines() if not line.startswith("#")]
    return dict(line.split("==") for line in lines)


def test_every_dependency_has_a_pin_within_its_bound() -> None:
    known = {normal(name): version for name, version in pins("constraints.txt").items()}
    for name, oldest in bounds(*PROJECT["project"]["optional-dependencies"]).items():
        assert numbers(known[normal(name)]) >= numbers(oldest), name


def test_the_oldest_versions_are_the_lower_bounds() -> None:
    lowest, released = pins("constraints-lowest.txt"), ("timm", "torchvision", "hf", "interactive", "parquet", "ray")
    assert {name: numbers(version) for name, version in lowest.items()} == {
        name: numbers(oldest) for name, oldest in bounds(*released).items()
    }


def test_the_oldest_versions_are_tried_by_tests_that_use_each_library() -> None:
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    (listed,) = re.findall(r"^THROUGH := (.*)$", makefile, re.MULTILINE)
    files = {name: (ROOT / "tests" / f"test_{name}.py").read_text() for name in listed.split()}
    words = {"pyarrow": "parquet"}  # pandas loads it
    optional = pins("constraints-lowest.txt").keys() - bounds().keys()
    assert {"plotly", "pyarrow", "ray", "timm"} <= optional
    assert [name for name in optional if not any(words.get(name, name) in text for text in files.values())] == []
    (slow,) = re.findall(r"-m slow -k (\w+) tests/test_ray.py", makefile)
    assert re.search(rf"def test_\w*{slow}", files["ray"])


def normal(name: str) -> str:
    return name.lower().replace("_", "-")


def numbers(version: str) -> list[int]:
    """Return a version's numbers without zeros at the end."""
    return [int(part) for part in re.sub(r"(\.0)+$", "", version).split(".") if part.isdigit()]


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()  # what the format demands
    about = PROJECT["project"]
    assert (citation["version"], citation["license"]) == (about["version"], about["license"])
    assert citation["keywords"] == about["keywords"] and all("name" in author for author in citation["authors"])


def test_every_file_of_the_package_is_in_its_distributions() -> None:
    data: dict[str, list[str]] = PROJECT["tool"]["setuptools"]["package-data"]
    covered = {path for name, patterns in data.items() for p in patterns for path in folder_of(name).glob(p)}
    others = {path for path in (ROOT / "sharpness").rglob("*") if path.is_file() and path.suffix not in {".py", ".pyc"}}
    assert others == covered and (ROOT / "sharpness" / "py.typed") in covered
    packages = {path.parent for path in (ROOT / "sharpness").rglob("*.py")}
    assert [path for path in packages if not (path / "__init__.py").is_file()] == []


def folder_of(package: str) -> Path:
    return ROOT.joinpath(*package.split("."))


# --- built, and installed alone ---


def clean(*command: str | Path, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command outside the checkout, with nothing of it on Python's path; it must succeed."""
    around = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    result = subprocess.run(
        [*map(str, command)], cwd=cwd, env=around | variables, capture_output=True, text=True, timeout=2 * PATIENCE
    )
    assert result.returncode == 0, f"{result.stdout[-2000:]}\n{result.stderr[-2000:]}"
    return result


def contents(wheel: Path) -> dict[str, str]:
    """Return the hash of each file in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: hashlib.sha256(archive.read(name)).hexdigest() for name in archive.namelist()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The sdist, the wheel that is built from it, and the one that is built from the sources, from a copy of them."""
    source = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        shutil.copy(ROOT / name, source / name)
    shutil.copytree(ROOT / "sharpness", source / "sharpness", ignore=shutil.ignore_patterns("__pycache__"))
    clean(sys.executable, "-m", "build", "--outdir", source / "dist", cwd=source)
    clean(sys.executable, "-m", "build", "--wheel", "--outdir", source / "direct", cwd=source)
    (sdist,), (wheel,), (direct,) = (source.glob(kind) for kind in ("dist/*.tar.gz", "dist/*.whl", "direct/*.whl"))
    return {"sdist": sdist, "wheel": wheel, "direct": direct}


@pytest.mark.slow
def test_both_distributions_pass_their_checks_and_hold_the_package(built: dict[str, Path]) -> None:
    clean(sys.executable, "-m", "twine", "check", "--strict", built["sdist"], built["wheel"], cwd=built["sdist"].parent)
    files = contents(built["wheel"])
    assert files == contents(built["direct"])
    own = [path for path in (ROOT / "sharpness").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    names = {path.relative_to(ROOT).as_posix() for path in own}
    assert names == {name for name in files if ".dist-info/" not in name}
    assert {"sharpness/py.typed", "sharpness/data/kjv/text.xz"} <= names
    with tarfile.open(built["sdist"]) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert names | set(SOURCES) <= inside and not any(name.startswith("tests") for name in inside)


@pytest.mark.slow
def test_the_wheel_alone_trains_and_measures_in_a_clean_environment(built: dict[str, Path], tmp_path: Path) -> None:
    clean(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    programs, elsewhere = tmp_path / "venv" / "bin", tmp_path / "elsewhere"
    elsewhere.mkdir()
    pins = ("-c", ROOT / "constraints.txt")
    clean(programs / "python", "-m", "pip", "install", "--quiet", *pins, built["wheel"], cwd=elsewhere)
    where = clean(programs / "python", "-c", "import sharpness; print(sharpness.__file__)", cwd=elsewhere).stdout
    assert Path(where.strip()).is_relative_to(tmp_path / "venv")
    assert "probe" in clean(programs / "sharpness", "--help", cwd=elsewhere).stdout
    (elsewhere / "run.toml").write_text(RUN)
    offline = {"SHARPNESS_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    clean(programs / "sharpness", "train", "run.toml", "--out", "run", cwd=elsewhere, **offline)
    probing = ("probe", "run", "--probes", "eigenvalues,norms", "--examples", "100", "--out", "results")
    said = clean(programs / "sharpness", *probing, cwd=elsewhere, **offline).stdout
    assert "top_eigenvalue" in said
    assert len((elsewhere / "results" / "probes.jsonl").read_text().splitlines()) == 2
    assert (elsewhere / "results" / "overview.png").is_file()
