"""How the site is made: ``make docs`` reads the pages as they lie in the repository and runs the examples.

The source of Sphinx is the repository itself, so that a link or picture of a page leads to the same on the site.
"""

from __future__ import annotations

import importlib
import os
import runpy
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT), str(HERE)]
# For the examples, of which several run at once: no one asks the network for anything.
os.environ |= {"SHARPNESS_OFFLINE": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}

# timm and transformers load torchvision, which is built for one torch; here it may be another.
SHIM = HERE / "shim"
os.environ["PYTHONPATH"] = os.pathsep.join([str(SHIM), str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
runpy.run_path(str(SHIM / "sitecustomize.py"))

from site_pages import adapted, block_math, breakable, contents, entitled, inline_math

from analysis.pages.figure_pages import write_figure_pages

NEEDS = {"timm_resnet": "timm", "language_model": "transformers.models.gpt2.modeling_gpt2"}
"""The modules of optional libraries that examples need. Without its module an example is shown and not run."""


def lacks(library: str) -> str:
    """Return why a module cannot be used here, or nothing; its import may fail in any way."""
    try:
        importlib.import_module(library)
    except Exception as error:
        return f"{library} is not to be had here ({error})"
    return ""


LEFT_OUT = {name: lacks(library) for name, library in NEEDS.items()}
for name, why in LEFT_OUT.items():
    print(f"docs/examples/{name}.py is shown and not run: {why}" if why else "", end="\n" if why else "")

FIGURES = write_figure_pages(ROOT / "figures", HERE / "figures")
EXAMPLES = sorted(path.stem for path in (HERE / "examples").glob("*.py"))
CONCEPTS = ["flat_and_sharp", "certificates", "norms", "reparametrisation", "noise_scale", "edges"]
PAGES = {
    "Start": ["docs/start", "README", "docs/measure", "docs/gallery/index"],
    "Concepts": [f"docs/concepts/{name}" for name in CONCEPTS],
    "How to": [
        *(f"docs/{name}" for name in ("train", "track", "results", "landscapes", "stress", "predict", "batch_size")),
        *(f"docs/{name}" for name in ("memory", "clusters", "extend")),
    ],
    "Reference": ["docs/measures", "docs/numbers", "docs/records", "docs/api", "docs/architecture", "docs/benchmarks"],
    "Findings": [
        "FINDINGS",
        "docs/studies",
        "docs/verdict_changes",
        *sorted(path.relative_to(ROOT).with_suffix("").as_posix() for path in ROOT.glob("figures/*/*/README.md")),
    ],
    "All figures": [f"docs/figures/{name}" for name in FIGURES],
    "Project": ["CHANGELOG", "CONTRIBUTING"],
}

project = "sharpness"
author = "the authors of sharpness"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx_gallery.gen_gallery"]
root_doc = "docs/README"
include_patterns = ["*.md", "docs/**.md", "docs/**.rst", "figures/**.md"]
exclude_patterns = ["docs/build/**", "docs/examples/**", "runs/**", ".venv/**"]

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
autosummary_generate = True
autosummary_ignore_module_all = False
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
autodoc_typehints = "signature"

sphinx_gallery_conf = {
    "examples_dirs": "docs/examples",
    "gallery_dirs": "docs/gallery",
    "filename_pattern": rf"/({'|'.join(name for name in EXAMPLES if not LEFT_OUT.get(name))})\.py$",
    "within_subsection_order": "site_pages.in_order",
    "write_computation_times": False,
    "download_all_examples": False,
    "show_signature": False,
    "image_scrapers": ("matplotlib",),
    "reset_modules": ("matplotlib",),
    "remove_config_comments": True,
    "parallel": 2,
}

html_theme = "furo"
html_title = "sharpness"
html_baseurl = ""
html_extra_path = ["front"]
html_static_path = ["style"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False
html_show_search_summary = False  # it would be fetched, which browsers do not allow of files
html_show_sourcelink = False


def setup(app: Any) -> None:
    """Adapt each page when it is read, and draw formulas without a script."""

    def read(app: Any, page: str, source: list[str]) -> None:
        if (ROOT / f"{page}.md").exists():
            source[0] = adapted(source[0], page) + (contents(PAGES, page) if page == root_doc else "")
        if page.startswith("figures/") and not page.endswith("/README"):
            source[0] = entitled(source[0], page)

    def finish(app: Any, page: str, template: str, context: dict[str, Any], tree: Any) -> None:
        if "body" in context:
            context["body"] = breakable(context["body"])

    app.connect("source-read", read)
    app.connect("html-page-context", finish)
    app.add_html_math_renderer("mathml", (inline_math, None), (block_math, None))


html_math_renderer = "mathml"
