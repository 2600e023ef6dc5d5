"""A real browser without a screen, as a child process: what a page is when somebody opens it."""

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

__all__ = ["Looked", "look", "needs_browser", "printed", "shot"]

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_FOUND = next(filter(None, map(shutil.which, _NAMES)), None)

needs_browser = pytest.mark.skipif(
    _FOUND is None, reason="NO BROWSER HERE (chromium): what pages look like is not checked"
)

_MEASURE = """
const frame = document.getElementById("page");
frame.addEventListener("load", () => {
  const inside = frame.contentDocument, root = inside.documentElement;
  const wide = [...inside.querySelectorAll("body *")].filter(
    one => !one.closest(".scroll, .clip, svg, .hidden") &&
      one.getBoundingClientRect().right > root.clientWidth + 0.5);
  const ground = frame.contentWindow.getComputedStyle(inside.body);
  const texts = [...inside.querySelectorAll("svg text")];
  document.getElementById("found").textContent = JSON.stringify({
    width: root.clientWidth,
    scroll_width: root.scrollWidth,
    height: root.scrollHeight,
    too_wide: wide.map(one => one.tagName + "." + one.getAttribute("class")),
    requests: frame.contentWindow.performance.getEntriesByType("resource").length,
    background: ground.backgroundColor,
    ink: ground.color,
    columns: ground.fontVariantNumeric,
    text_px: texts.map(one => parseFloat(frame.contentWindow.getComputedStyle(one).fontSize)),
    title: inside.title,
  });
});
"""


@dataclass(frozen=True, slots=True)
class Looked:
    """What the browser says of a page in a window that is so wide."""

    width: int
    scroll_width: int
    height: int
    too_wide: list[str]
    requests: int
    background: str
    ink: str
    columns: str
    text_px: list[float]
    title: str
    complaints: list[str]
    """Of its console."""


def look(page: str, folder: Path, width: int, *flags: str) -> Looked:
    """A window is not as narrow as a phone everywhere; a frame in it is."""
    host = folder / "host.html"
    text = json.dumps(page).replace("</", "<\\/").replace("<!--", "<\\!--")
    host.write_text(
        f'<!doctype html><meta charset="utf-8"><pre id="found"></pre>'
        f'<iframe id="page" style="width:{width}px;height:900px;border:0"></iframe>'
        f"<script>{_MEASURE}frame.srcdoc = {text};</script>"
    )
    ended = _run(folder, "--dump-dom", *flags, host.as_uri())
    told = re.search(r'<pre id="found">(.*?)</pre>', ended.stdout, re.DOTALL)
    assert told is not None, ended.stderr
    found: dict[str, Any] = json.loads(told[1].replace("&gt;", ">").replace("&amp;", "&"))
    complaints = [line for line in ended.stderr.splitlines() if "CONSOLE" in line]
    return Looked(**found, complaints=complaints)


def shot(page: Path, folder: Path, width: int, height: int, *flags: str) -> bytes:
    """A PNG."""
    target = folder / "shot.png"
    size = f"--window-size={width},{height}"
    _run(folder, f"--screenshot={target}", size, *flags, page.as_uri())
    return target.read_bytes()


def printed(page: Path, folder: Path) -> bytes:
    """A PDF."""
    target = folder / "page.pdf"
    _run(folder, f"--print-to-pdf={target}", "--no-pdf-header-footer", page.as_uri())
    return target.read_bytes()


def _run(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """With a profile of its own, offline: a name that is asked for is not found."""
    assert _FOUND is not None
    command = [
        _FOUND,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
        "--enable-logging=stderr",
        "--log-level=0",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--user-data-dir={folder / 'profile'}",
        *arguments,
    ]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
