"""A browser without a window, for the tests of pages: what a page says on its console, its elements, its picture.

:func:`visit` opens one page from its file, and :func:`walk` all pages of a folder in one browser.
"""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PATIENCE

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = "--headless --no-sandbox --disable-gpu --enable-unsafe-swiftshader --disable-quic --no-first-run"
FLAGS += " --disable-background-networking --disable-component-update --disable-sync --enable-logging=stderr --v=0"
PERFORMANCE = ("GL Driver Message (OpenGL, Performance", "Canvas2D: Multiple readback operations")
"""What the browser says of its own speed on a machine without a graphics card, which is not about the page."""

needs_browser = pytest.mark.usefixtures("browser")

IMAGES = """
addEventListener("load", () => {  // the event waits for the images
  document.title = `images ${[...document.images].map((image) => image.naturalWidth).join(" ")}`;
});
"""
"""A script that writes the widths of all images into the title of a page, 0 for one that is not drawn."""
WALK = """
const loaded = (image) => image.complete || new Promise((done) => { image.onload = image.onerror = done; });
const frame = document.querySelector("iframe");
const look = async (page) => {
  frame.style.width = `${WIDTHS[0]}px`;
  await new Promise((done) => { frame.onload = done; frame.src = `/${page}`; });
  const place = frame.contentDocument, images = [...place.images];
  for (const image of images) image.loading = "eager";
  await Promise.all(images.map(loaded));
  const wider = WIDTHS.map((width) => {
    frame.style.width = `${width}px`;
    return place.documentElement.scrollWidth - place.documentElement.clientWidth;
  });
  const missing = images.filter((image) => image.naturalWidth === 0).map((image) => image.getAttribute("src"));
  const viewport = place.querySelector("meta[name=viewport]");
  return { images: images.length, missing, wider, viewport: viewport ? viewport.content : "" };
};
(async () => {
  const found = {};
  for (const page of PAGES) found[page] = await look(page).catch((error) => ({ error: String(error) }));
  await fetch("/found", { method: "POST", body: JSON.stringify(found) });
})();
"""
"""A script that opens page after page in a frame of several widths, which can be narrower than a window."""
FRAME = """<!DOCTYPE html><title>walk</title><link rel="icon" href="data:,">
<iframe style="height: 1200px"></iframe><img src="/end">
<script>const PAGES = {pages}, WIDTHS = {widths};{script}</script>
"""


def walk(folder: Path, pages: Sequence[str], widths: Sequence[int]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Open pages of a folder one after the other in one browser; return what each has and what the console says.

    Of each page: the number of ``images``, the addresses of the ``missing`` ones, by how many pixels it is ``wider``
    than a frame of each width, and its ``viewport``, without which a phone would show it as a desk does. The pages are
    served on this machine, because a browser lets no file look into another.
    """
    found, ended = dict[str, Any](), threading.Event()
    frame = FRAME.format(pages=json.dumps(list(pages)), widths=json.dumps(list(widths)), script=WALK)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(folder))

        def do_GET(self) -> None:
            if self.path == "/walk":
                self._answer("text/html", frame.encode())
            elif self.path == "/end":  # an image that the page waits for, and the browser for the page
                ended.wait(PATIENCE)
                self._answer("image/svg+xml", b'<svg xmlns="http://www.w3.org/2000/svg"/>')
            else:
                super().do_GET()

        def do_POST(self) -> None:
            found.update(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self._answer("text/plain", b"")
            ended.set()

        def _answer(self, kind: str, content: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            _, said = _opened(f"http://127.0.0.1:{server.server_port}/walk", "--window-size=1400,1300", "--dump-dom")
        finally:
            ended.set()
            server.shutdown()
    return found, said


def visit(page: Path, *arguments: str, query: str = "") -> tuple[str, list[str]]:
    """Open a page from its file in a browser of its own; return its standard output and what the console says."""
    return _opened(page.resolve().as_uri() + query, *arguments)


def _opened(address: str, *arguments: str) -> tuple[str, list[str]]:
    assert CHROMIUM is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:  # the browser may still write to it
        command = [CHROMIUM, *FLAGS.split(), f"--user-data-dir={profile}", *arguments, address]
        result = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
    said = re.findall(r":CONSOLE[:(]\d+\)?\] (.*)", result.stderr)
    return result.stdout, [line for line in said if not any(part in line for part in PERFORMANCE)]


def with_script(page: Path, script: str, out: Path) -> Path:
    """Write a copy of a page that runs one more script at its end, which its policy is made to allow."""
    html = page.read_text()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    allowed = f"script-src 'sha256-{digest}'"
    if "script-src " in html:
        html = html.replace("script-src ", f"{allowed} ", 1)
    else:
        html = html.replace('content="default-src ', f'content="{allowed}; default-src ', 1)
    before, end, after = html.rpartition("</body>")
    out.write_text(f"{before}<script>{script}</script>{end}{after}")
    return out
