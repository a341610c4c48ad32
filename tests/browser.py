"""A browser without a window, for the tests of pages: what a page says on its console, its elements, its picture."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.conftest import PATIENCE

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = "--headless --no-sandbox --disable-gpu --enable-unsafe-swiftshader --disable-quic --no-first-run"
FLAGS += " --disable-background-networking --disable-component-update --disable-sync --enable-logging=stderr --v=0"
PERFORMANCE = ("GL Driver Message (OpenGL, Performance", "Canvas2D: Multiple readback operations")
"""What the browser says of its own speed on a machine without a graphics card, which is not about the page."""

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")


def visit(page: Path, *arguments: str, query: str = "") -> tuple[str, list[str]]:
    """Open a page from its file in a browser of its own; return its standard output and what the console says."""
    assert CHROMIUM is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:  # the browser may still write to it
        command = [CHROMIUM, *FLAGS.split(), f"--user-data-dir={profile}", *arguments, page.resolve().as_uri() + query]
        result = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
    said = re.findall(r":CONSOLE[:(]\d+\)?\] (.*)", result.stderr)
    return result.stdout, [line for line in said if not any(part in line for part in PERFORMANCE)]


def with_script(page: Path, script: str, out: Path) -> Path:
    """Write a copy of a page that runs one more script at its end, which its policy is made to allow."""
    html = page.read_text()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    html = html.replace("script-src ", f"script-src 'sha256-{digest}' ", 1)
    before, end, after = html.rpartition("</body>")
    out.write_text(f"{before}<script>{script}</script>{end}{after}")
    return out
