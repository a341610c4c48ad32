"""The gallery: all of a folder is on the page, nothing of it becomes a part of the page, and a browser shows it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from analysis.pages.gallery import LARGE, Options, load_gallery, write_gallery
from analysis.pages.gallery_page import ROWS
from analysis.report.findings import Finding
from analysis.report.report import TextTable, save_table
from sharpness.plots.interactive import save_interactive
from sharpness.plots.save import save_figure, write_all
from tests.browser import needs_browser, visit, with_script
from tests.conftest import ROOT, run_python
from tests.landscape_records import plane
from tests.test_findings import frame_of, write_findings

NASTY = "<script>alert(1)</script> \"quoted\" & 'more' <img src=x onerror=alert(2)> λ </details></figure>"
TAGS = (
    "html head meta title link style body header h1 h2 h3 h4 p label input output nav ul li a main section figure img"
)
TAGS += " figcaption details summary div table thead tbody tr th td pre script strong"


class Page(HTMLParser):
    """The tags of a page with their attributes, its text, and its tables as rows of cells."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)
        assert self.open == [], "every element is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def decoded(address: str | None) -> bytes:
    assert address is not None and address.startswith("data:")
    return base64.b64decode(address.partition(";base64,")[2])


def add_figure(folder: Path, name: str, rows: int = 3, caption: str = "A caption.", **provenance: Any) -> None:
    figure = Figure(figsize=(1, 1))
    figure.text(0.1, 0.5, name)
    save_figure(figure, frame_of(x=range(rows)), folder, name, caption, {"schema": 1, **provenance})


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two studies and a folder of another kind: figures, a table, numbers alone and verdicts."""
    root = tmp_path_factory.mktemp("drawn")
    shared = {"runs": [{"run_id": "abc", "status": "finished"}], "n": 5}
    first = root / "izmailov2018" / "cpu-5-seeds"
    add_figure(first, "long", rows=ROWS + 50, **shared)
    add_figure(first, "nasty", caption=NASTY, own=NASTY, **shared)
    table = TextTable("table", "T", ["", "n"], [["a|b", "5"]], frame_of(n=[5.123]), "The note.")
    save_table(table, first, shared)
    write_all(first, {"runs.csv": f'name\n"{NASTY.replace(chr(34), chr(34) * 2)}"\n'.encode()})
    finding = Finding(NASTY, "a setting", "long", "1 [0, 2]", "reproduced in sign only", "because")
    write_findings(first, [finding, Finding("B", "s", "gone", "–", "not testable here", "none")])
    add_figure(root / "keskar2017" / "cpu-5-seeds", "only", alone="here")
    add_figure(root / "another" / "deep" / "er", "deep one")
    return root


@pytest.fixture
def figures(drawn: Path, tmp_path: Path) -> Path:
    """A copy of the folders for one test."""
    return shutil.copytree(drawn, tmp_path / "figures")


def page_of(figures: Path) -> tuple[Page, str]:
    out = figures.parent / "gallery.html"
    write_gallery(Options(figures, out))
    return Page(out.read_text()), out.read_text()


def test_every_figure_is_on_the_page_with_its_caption_numbers_and_origin(figures: Path) -> None:
    page, html = page_of(figures)
    pngs = [*figures.rglob("*.png")]
    images = {decoded(image["src"]): image for image in page.all("img")}
    assert len(images) == len(pngs) == 4 and set(images) == {path.read_bytes() for path in pngs}
    for path in pngs:
        caption = json.loads(path.with_suffix(".json").read_text())["caption"]
        assert images[path.read_bytes()]["alt"] == caption and caption in page.text
        with Image.open(path) as opened:
            assert int(images[path.read_bytes()]["width"] or 0) == round(opened.width * 1.4 * 96 / 300)
    links = {link["download"]: decoded(link["href"]) for link in page.all("a") if "download" in link}
    assert links == {path.name: path.read_bytes() for path in figures.rglob("*.csv")}
    assert f"Numbers: {ROWS + 50} rows, the first {ROWS} shown" in page.text and "Numbers: 1 row" in page.text
    assert f"<td>{ROWS - 1}</td>" in html and f"<td>{ROWS}</td>" not in html
    assert page.text.count('"run_id": "abc"') == 1, "what a folder's figures share is said once"
    assert '"alone": "here"' in page.text and "flaw" not in {a.get("class") for a in page.all("p")}
    assert "4 figures of 3 studies" in page.text
    assert page.text.index("Keskar et al. 2017") < page.text.index("Izmailov et al. 2018") < page.text.index("another")


def test_tables_and_verdicts_are_on_the_page(figures: Path) -> None:
    page, html = page_of(figures)
    assert '<tr><td>a|b</td><td class="n">5</td></tr>' in html and page.text.count("The note.") == 1
    assert "2 claims: 1 reproduced in sign only, 1 not testable here" in page.text
    assert '<td class="reproduced-in-sign-only"><strong>reproduced in sign only</strong></td>' in html
    assert '<a href="#at:izmailov2018/cpu-5-seeds/long">long</a></td>' in html and "<td>gone</td>" in html


def test_the_page_asks_for_nothing_and_nothing_in_it_is_executed_or_broken(figures: Path) -> None:
    page, html = page_of(figures)
    assert {tag for tag, _ in page.tags} == set(TAGS.split())
    assert len(page.all("script")) == 1 and not any(name.startswith("on") for _, a in page.tags for name in a)
    for tag, attributes in page.tags:
        for name in ("src", "href"):
            address = attributes.get(name) or "data:"
            assert address.startswith(("data:", "#")) or (tag == "a" and address.startswith("https://arxiv.org/"))
    assert "url(" not in html and "@import" not in html
    identities = [a["id"] for _, a in page.tags if "id" in a]
    assert len(set(identities)) == len(identities)
    assert {(a["href"] or "")[1:] for a in page.all("a") if (a["href"] or "").startswith("#")} <= set(identities)
    policy = next(a["content"] for a in page.all("meta") if "http-equiv" in a) or ""
    script = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)[-1]
    assert policy.startswith("default-src 'none'")
    assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in policy
    assert page.text.count("<img src=x onerror=alert(2)>") >= 4, "the texts are shown as they are"


def test_the_same_files_give_the_same_bytes_wherever_the_page_goes(figures: Path) -> None:
    write_gallery(Options(figures, figures.parent / "one.html"))
    write_gallery(Options(figures, figures / "two.html"))
    assert (figures.parent / "one.html").read_bytes() == (figures / "two.html").read_bytes()


FLAWS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "other numbers": (lambda p: p.with_suffix(".csv").write_text("x\n1\n"), "only.csv is not the file"),
    "no numbers": (lambda p: p.with_suffix(".csv").unlink(), "only.csv is missing"),
    "no origin": (lambda p: p.with_suffix(".json").unlink(), "only.json is missing"),
    "damaged origin": (lambda p: p.with_suffix(".json").write_text("{"), "only.json is damaged"),
    "origin of no form": (lambda p: p.with_suffix(".json").write_text("[]"), "only.json is damaged"),
    "no hash": (lambda p: p.with_suffix(".json").write_text("{}"), "only.csv is not the file"),
    "no picture": (lambda p: p.write_bytes(b"GIF"), "only.png is not a PNG file"),
}


@pytest.mark.parametrize("name", FLAWS)
def test_a_figure_that_is_not_what_it_says_is_marked(figures: Path, name: str) -> None:
    spoil, expected = FLAWS[name]
    spoil(figures / "keskar2017" / "cpu-5-seeds" / "only.png")
    said = write_gallery(Options(figures, figures.parent / "gallery.html"))
    page = Page((figures.parent / "gallery.html").read_text())
    assert expected in page.text and [a.get("class") for a in page.all("p")].count("flaw") == 1
    assert ", 1 marked as not what they say;" in said and "keskar2017/cpu-5-seeds" in page.text


def test_a_table_of_other_numbers_is_marked(figures: Path) -> None:
    (figures / "izmailov2018" / "cpu-5-seeds" / "table.csv").write_text("n\n6\n")
    page, _ = page_of(figures)
    assert "table.csv is not the file that this was rendered from" in page.text


def test_the_command(figures: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    done = run_python("-m", "analysis.pages.gallery", "--figures", str(figures), "--out", str(out))
    assert done.returncode == 0 and done.stdout.startswith(f"{out}: 4 figures of 3 folders; ")
    before = out.read_bytes()
    (tmp_path / "empty").mkdir()
    bad = {"gone": "expected a folder of figures", "empty": "expected figures (PNG)"}
    for name, expected in bad.items():
        done = run_python("-m", "analysis.pages.gallery", "--figures", str(tmp_path / name), "--out", str(out))
        assert done.returncode == 2 and done.stderr.startswith(f"error: {expected}") and done.stderr.count("\n") == 1
    assert out.read_bytes() == before
    done = run_python(
        "-m", "analysis.pages.gallery", "--figures", str(figures), "--out", str(tmp_path / "no" / "x.html")
    )
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_the_committed_figures_are_what_they_say_and_make_a_page_of_a_handy_size(tmp_path: Path) -> None:
    flaws = [flaw for each in load_gallery(ROOT / "figures") for item in each.items for flaw in item.flaws]
    assert flaws == []
    said = write_gallery(Options(ROOT / "figures", tmp_path / "gallery.html"))
    assert (tmp_path / "gallery.html").stat().st_size < LARGE and "large" not in said


# --- in a browser ---

COUNT = """
addEventListener("load", () => {  // which waits for the images
  const images = [...document.images];
  const drawn = () => images.filter((image) => image.naturalWidth > 0 && image.offsetWidth > 0).length;
  const counts = [images.length, drawn()];
  document.querySelectorAll("details").forEach((each) => { each.open = true; });
  const box = document.getElementById("filter");
  for (const text of ["only", "no such word", ""]) {
    box.value = text;
    box.dispatchEvent(new Event("input"));
    counts.push(drawn());
  }
  document.title = "counted " + counts.join(" ") + " " + document.getElementById("shown").textContent;
});
"""


@needs_browser
@pytest.mark.slow
def test_a_browser_draws_every_figure_and_says_nothing(figures: Path, tmp_path: Path) -> None:
    page_of(figures)
    page = tmp_path / "gallery.html"
    _, said = visit(page, "--window-size=1000,1400", f"--screenshot={tmp_path / 'shot.png'}")
    assert said == []
    dom, said = visit(with_script(page, COUNT, tmp_path / "counting.html"), "--dump-dom")
    assert said == [] and "<title>counted 4 4 1 0 4 </title>" in dom
    broken = tmp_path / "broken.html"
    broken.write_text(page.read_text().replace("</main>", '<img alt="" src="data:image/png;base64,AAAA"></main>'))
    dom, _ = visit(with_script(broken, COUNT, tmp_path / "counting.html"), "--dump-dom")
    assert "<title>counted 5 4 1 0 4 </title>" in dom
    broken.write_text(page.read_text().replace("</main>", '<img alt="" src="https://example.org/x.png"></main>'))
    assert any("Content Security Policy" in line for line in visit(broken, "--dump-dom")[1]), "the console is heard"


@needs_browser
@pytest.mark.slow
def test_a_browser_draws_all_committed_figures(tmp_path: Path) -> None:
    page = tmp_path / "gallery.html"
    write_gallery(Options(ROOT / "figures", page))
    count = page.read_text().count("<img ")
    dom, said = visit(with_script(page, COUNT, tmp_path / "counting.html"), "--dump-dom")
    assert said == [] and f"<title>counted {count} {count} " in dom


@needs_browser
@pytest.mark.slow
def test_a_browser_draws_the_surface_that_can_be_turned(tmp_path: Path) -> None:
    page, shot = tmp_path / "plane.html", tmp_path / "shot.png"
    save_interactive(plane(), page)
    _, said = visit(page, "--window-size=900,900", "--virtual-time-budget=5000", f"--screenshot={shot}")
    assert said == []
    with Image.open(shot) as opened:
        rgb = np.asarray(opened.convert("RGB")).astype(int)
    vivid = np.ptp(rgb, axis=2) > 90  # the colours of the surface: text, grid and frame are greyer
    assert vivid.sum() > 5000 and len(np.unique(rgb[vivid], axis=0)) > 50
