"""The site: its examples run, and what is built has no warning, no dead link, and shows in a browser."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from PIL import Image

from sharpness import plots
from tests.browser import needs_browser, visit, walk
from tests.conftest import PATIENCE, ROOT, SHIM, run_cold_python, without

EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*.py"))
NAMES = [path.stem for path in EXAMPLES]
LIBRARIES = {"timm_resnet": "timm", "language_model": "transformers"}
PLAIN = {"collections", "copy", "dataclasses", "matplotlib", "numpy", "pathlib", "sharpness", "tempfile", "torch"}
"""What examples may import: what the package itself needs, and the standard library."""
WIDTHS = (1300, 390)
"""Pixels of a desk's window and of a phone."""


@pytest.mark.parametrize("path", EXAMPLES, ids=NAMES)
def test_an_example_says_what_it_asks_and_ends_in_a_figure(path: Path) -> None:
    text = path.read_text()
    tree = ast.parse(text)
    title, line, *_ = (ast.get_docstring(tree) or "").splitlines()
    assert title.endswith("?") and set(line) == {"="} and len(line) == len(title)
    assert text.endswith("plt.show()\n") and "# %%\n" in text and len(text.splitlines()) < 100
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    modules = {
        name for node in imports for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else names(node))
    }
    assert {name.split(".")[0] for name in modules} <= PLAIN | {LIBRARIES.get(path.stem, "torch")}


def names(node: ast.Import) -> list[str]:
    """Return the modules that a line imports."""
    return [each.name for each in node.names]


def test_the_gallery_has_every_example_in_its_order() -> None:
    tree = ast.parse((ROOT / "docs" / "site_pages.py").read_text())
    (order,) = (n.value for n in tree.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "ORDER")
    assert sorted(ast.literal_eval(order)) == NAMES and 12 <= len(NAMES) <= 16


def test_examples_draw_with_what_the_package_draws_with() -> None:
    used = {path.stem: set(re.findall(r"\bplots\.(\w+)", path.read_text())) for path in EXAMPLES}
    assert set().union(*used.values()) <= set(plots.__all__)
    panels = {name for names in used.values() for name in names if name.startswith("draw_")}
    assert {"draw_line", "draw_forest", "draw_layers", "draw_stress", "draw_surface"} <= panels
    assert all({"styled", "WIDTHS"} <= names for names in used.values() if names)


@pytest.mark.dear
def test_what_the_site_loads_for_torchvision_changes_no_picture_and_no_file() -> None:
    conf = (ROOT / "docs" / "conf.py").read_text()
    assert 'SHIM = HERE / "shim"' in conf and "tests" not in conf
    code = (
        "import inspect, os, sharpness.plots.save; from matplotlib.figure import Figure; "
        "print(inspect.unwrap(Figure.savefig) is Figure.savefig, inspect.isbuiltin(os.fsync))"
    )
    here, tests = (
        run_cold_python("-c", code, environment={"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}).stdout.split()
        for folder in (ROOT / "docs" / "shim", SHIM)
    )
    assert here == ["True", "True"] and tests == ["False", "False"]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_an_example_runs_as_a_script(name: str) -> None:
    if name in LIBRARIES and importlib.util.find_spec(LIBRARIES[name]) is None:
        without(f"no {LIBRARIES[name]} is installed")
    environment = {"MPLBACKEND": "Agg"}
    result = run_cold_python("-W", "error", f"docs/examples/{name}.py", environment=environment)
    assert result.returncode == 0, result.stderr


# --- the site ---


def test_the_full_form_skips_no_test_for_want_of_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SHARPNESS_TEST_ALL", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no browser"):
        without("no browser")
    full = (ROOT / ".ci" / "run").read_text().partition("== full")[2]
    assert 0 < full.index("export SHARPNESS_TEST_ALL=1") < full.index("-m slow")
    monkeypatch.setenv("SHARPNESS_TEST_ALL", "1")
    with pytest.raises(pytest.fail.Exception, match="no browser"):
        without("no browser")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built with no warning allowed; examples that ran before are not run again."""
    if importlib.util.find_spec("sphinx") is None:
        without("no Sphinx is installed: pip install -e '.[docs]' -c constraints.txt")
    out = tmp_path_factory.mktemp("site")
    options = ["-W", "--keep-going", "-q", "-b", "html", "-c", "docs", "-d"]
    command = [sys.executable, "-m", "sphinx", *options, str(out / "trees"), ".", str(out / "html")]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    new = [name for name in NAMES if not (ROOT / "docs" / "gallery" / f"{name}.py.md5").exists()]
    start = time.monotonic()
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert result.returncode == 0, result.stderr[-3000:]
    (out / "time.txt").write_text(f"{time.monotonic() - start:.0f} s, with {len(new)} of {len(NAMES)} examples run")
    return out / "html"


class Page(HTMLParser):
    """The addresses that a page leads to or draws, and the places in it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.addresses: set[str] = set()
        self.places: set[str] = set()
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("href", "src") and value:
                self.addresses.add(value)
            if name == "id" and value:
                self.places.add(value)


@pytest.mark.slow
def test_no_link_of_the_site_is_dead_and_nothing_is_asked_of_the_network(site: Path) -> None:
    pages = {path.resolve(): Page(path) for path in site.rglob("*.html")}
    assert len(pages) > 100
    dead = []
    for path, page in pages.items():
        for address in page.addresses:
            file, _, place = unquote(address).partition("#")
            if re.match(r"[a-z]+:", address):
                continue
            target = (path.parent / file.partition("?")[0]).resolve() if file else path
            if not target.exists() or (place and target in pages and place not in pages[target].places):
                dead.append(f"{path.relative_to(site)}: {address}")
    assert dead == []
    drawn = [html for html in site.rglob("*.html") if re.search(r'<(?:img|script|link)[^>]*"https?:', html.read_text())]
    assert drawn == []


@pytest.mark.slow
def test_every_example_is_a_notebook_too(site: Path) -> None:
    notebooks = {path.stem: json.loads(path.read_text()) for path in site.rglob("_downloads/*/*.ipynb")}
    assert set(notebooks) == set(NAMES)
    assert all(any(cell["cell_type"] == "code" for cell in book["cells"]) for book in notebooks.values())


@pytest.mark.slow
def test_every_example_has_its_figures_at_full_size(site: Path, record_property: Callable[[str, object], None]) -> None:
    record_property("the site was built in", (site.parent / "time.txt").read_text())
    for name in NAMES:
        with Image.open(site / "_images" / f"sphx_glr_{name}_001.png") as image:
            assert image.width > 400, name  # 100 dots per inch, not those of the tests' figures


@needs_browser
@pytest.mark.slow
def test_a_browser_draws_every_picture_of_every_page_and_says_nothing(site: Path) -> None:
    """No page is wider than a desk's window or a phone's, which is narrower than a browser makes a window."""
    files = [path for path in site.rglob("*.html") if 'http-equiv="refresh"' not in path.read_text()]
    pages = sorted(path.relative_to(site).as_posix() for path in files)
    found, said = walk(site, pages, WIDTHS)
    assert said == [] and [*found] == pages and len(pages) > 100
    wrong = {
        page: seen
        for page, seen in found.items()
        if "error" in seen or seen["missing"] or max(seen["wider"]) > 0 or "width=device-width" not in seen["viewport"]
    }
    assert wrong == {}
    assert sum(seen["images"] for seen in found.values()) > 150
    assert all(found[f"docs/gallery/{name}.html"]["images"] for name in NAMES)


@needs_browser
@pytest.mark.slow
def test_the_search_finds_a_word(site: Path) -> None:
    """The index is a script beside the page, so that the search works from a file and without a network."""
    dom, said = visit(site / "search.html", "--virtual-time-budget=10000", "--dump-dom", query="?q=jackknife")
    assert said == [] and "docs/numbers.html" in dom.rpartition('id="search-results"')[2]
