"""The site is built in strict mode, has an entry for every public name, and every page opens without an error."""

import re
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

pytest.importorskip("sphinx")
from sphinx.util.inventory import InventoryFile

ROOT = Path(__file__).resolve().parents[1]
MODULES = ("gradstep", "gradstep.numpy", "gradstep.rules", "gradstep.schedules")
MODULES_AS_NAMES = {"gradstep.rules", "gradstep.schedules", "gradstep.__version__"}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("site") / "html"
    built = subprocess.run(
        [sys.executable, ROOT / "tools/site.py", "--out", out], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert built.returncode == 0, built.stderr
    return out


def test_every_public_name_has_an_entry(site):
    documented = InventoryFile.loads((site / "objects.inv").read_bytes(), uri="").data
    entries = {name for kind, names in documented.items() if kind.startswith("py:") for name in names}
    same = {id(getattr(*_split(name))) for name in entries if _exists(name)}
    public = [(module, name) for module in MODULES for name in import_module(module).__all__]
    missing = [
        f"{module}.{name}"
        for module, name in public
        if f"{module}.{name}" not in entries | MODULES_AS_NAMES and id(getattr(import_module(module), name)) not in same
    ]
    assert not missing


def test_every_page_is_in_the_navigation(site):
    """A page that no other page leads to is not found."""
    index = (site / "index.html").read_text(encoding="utf-8")
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")} - {"index", "course-walk"}
    assert not {page for page in pages if f'href="{page}.html"' not in index}


def test_pages_take_nothing_from_elsewhere(site):
    """No script, font or picture of another host: the site works offline, and tells nobody who reads it."""
    for page in site.rglob("*.html"):
        assert not re.findall(r'(?:src|<link[^>]*href)="https?://[^"]*', page.read_text(encoding="utf-8")), page


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("chromium"), reason="Chromium is not installed")
@pytest.mark.parametrize("width", [1400, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_pages_open_in_a_browser(site, width, dark, tmp_path):
    for page in sorted(site.rglob("*.html")):
        opened = subprocess.run(
            [
                "chromium",
                "--headless",
                "--no-sandbox",
                "--enable-logging=stderr",
                "--log-level=0",
                f"--user-data-dir={tmp_path}",
                f"--window-size={width},900",
                *["--blink-settings=preferredColorScheme=0"] * dark,
                "--virtual-time-budget=2000",
                "--dump-dom",
                page.as_uri(),
            ],
            capture_output=True,
            text=True,
            check=True,
        )
        assert "CONSOLE" not in opened.stderr, f"{page}: {opened.stderr}"


def _split(name):
    """Return the object and the attribute that a dotted name stands for."""
    parts = name.split(".")
    for k in range(len(parts) - 1, 0, -1):
        try:
            holder = import_module(".".join(parts[:k]))
        except ModuleNotFoundError:
            continue
        for part in parts[k:-1]:
            holder = getattr(holder, part)
        return holder, parts[-1]
    raise AttributeError(name)


def _exists(name):
    try:
        getattr(*_split(name))
    except AttributeError:
        return False
    return True
