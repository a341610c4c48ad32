"""What the site adds to the pages of the repository: their order, the pictures of examples, and formulas as MathML."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

ORDER = (
    "first_measurement",
    "certificate",
    "two_minima",
    "which_norm",
    "stress_test",
    "noise_scale",
    "training_run",
    "many_checkpoints",
    "landscape_surface",
    "quantisation",
    "custom_probe",
    "physics_informed",
    "lora",
    "language_model",
    "timm_resnet",
)
"""The examples as the gallery shows them: what a reader needs first comes first."""
EXAMPLE = re.compile(r"\[(?P<said>[^\]]+)\]\((?:\.\./)*(?:docs/)?examples/(?P<name>\w+)\.py\)")
PICTURE = re.compile(rf"^{EXAMPLE.pattern}$", re.MULTILINE)
"""A link to an example that is a paragraph of its own: on the site the example's first figure stands there."""
PAGE = re.compile(r"\| \[(?P<name>\w+)\.md\]\(")
"""A link in a table to a page by the name of its file, which on the site is none."""
NAME = re.compile(r'(?<=<span class="pre">)[\w.]+(?=</span>)')
"""A name in the type of programs."""


def adapted(text: str, page: str) -> str:
    """Return a page as the site has it: links to examples lead to their pages, and links to folders to what is there.

    ``page`` is the page's name from the root of the repository.
    """
    up = "../" * page.count("/")

    def pictured(link: re.Match[str]) -> str:
        there = f"{up}docs/gallery/{link['name']}.rst"
        image = f"{up}docs/gallery/images/sphx_glr_{link['name']}_001.png"
        return f"[![{link['said']}]({image})]({there})\n\n*{link['said']}*"

    text = PAGE.sub(lambda cell: f"| [{cell['name'].replace('_', ' ')}](", text)
    text = PICTURE.sub(pictured, text)
    text = EXAMPLE.sub(lambda link: f"[{link['said']}]({up}docs/gallery/{link['name']}.rst)", text)
    return re.sub(r"(?<!!)\[([^\]]+)\]\(([^)#:]+/)\)", r"\1", text)  # a folder is nothing that a site can show


def entitled(text: str, page: str) -> str:
    """Return a table of a study as a page: with a title, and in no table of contents, because others link to it."""
    title = "" if text.startswith("# ") else f"# {page.split('/')[-1]}\n\n"
    return f"---\norphan: true\n---\n\n{title}{text}"


def contents(parts: dict[str, Sequence[str]], page: str) -> str:
    """Return the tables of contents that the front page ends with; the side bar shows them."""
    up = "../" * page.count("/")
    return "".join(
        f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{''.join(f'{up}{name}{chr(10)}' for name in names)}```\n"
        for caption, names in parts.items()
    )


def breakable(body: str) -> str:
    """Return a page's HTML whose names in tables may break after an underscore, which changes no letter of them.

    >>> breakable('<td><p><code><span class="pre">num_hvps</span>')
    '<td><p><code><span class="pre">num_<wbr>hvps</span>'
    """
    return NAME.sub(lambda name: name[0].replace("_", "_<wbr>"), body)


def in_order(name: str) -> int:
    """Return the place of an example in the gallery."""
    return ORDER.index(name.removesuffix(".py"))


def inline_math(self: Any, node: nodes.math) -> None:
    """Write a formula in a sentence as MathML, which browsers draw without a script."""
    self.body.append(tex2mathml(node.astext(), as_block=False))
    raise nodes.SkipNode


def block_math(self: Any, node: nodes.math_block) -> None:
    """Write a formula on a line of its own."""
    self.body.append(f'<div class="math">{tex2mathml(node.astext(), as_block=True)}</div>')
    raise nodes.SkipNode
