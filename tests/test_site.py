"""The site is built in strict mode, has an entry for every public name, and every page opens without an error."""

import json
import re
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

pytest.importorskip("sphinx")
from sphinx.util.inventory import InventoryFile

pytestmark = pytest.mark.slow  # to build the site takes half a minute; CI does so after the tests

ROOT = Path(__file__).resolve().parents[1]
MODULES = ("gradstep", "gradstep.numpy", "gradstep.rules", "gradstep.schedules")
JOBS = {
    "from torch.optim": "from_torch.html",
    "from bitsandbytes": "from_bitsandbytes.html",
    "with Hugging Face": "clients.html#hugging-face-trainer",
    "with Accelerate": "clients.html#accelerate",
    "with Lightning": "clients.html#lightning",
    "several workers": "distributed.html",
    "on a GPU": "gpu.html",
    "fine-tune with little memory": "little_memory.html",
    "my loss is NaN, flat or jumping": "my_loss.html",
    "write an optimizer": "own_rule.html",
    "learn": "course.html",
}
"""What people come for, and the place that answers it."""
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


def test_every_job_is_two_clicks_from_the_first_page(site):
    """Counted in the text of the pages: the navigation beside it is closed on a phone."""
    clicks = {"index.html": 0}
    for number in (1, 2):
        for page in list(clicks):
            text = (site / page.partition("#")[0]).read_text(encoding="utf-8")
            article = text[text.index("<article") : text.index("</article>")]
            for link in re.findall(r'href="(?!https?:)([^"]+\.html[^"]*)"', article):
                clicks.setdefault(link, number)
    assert not {job for job, place in JOBS.items() if place not in clicks}
    for place in JOBS.values():
        page, _, anchor = place.partition("#")
        assert not anchor or f'id="{anchor}"' in (site / page).read_text(encoding="utf-8")


WIDTHS = """<iframe id="page" width="390" height="900"></iframe><pre id="wide"></pre><script>
const scrolls = element => element.tagName != "ARTICLE" &&
  (getComputedStyle(element).overflowX != "visible" || scrolls(element.parentElement));
(async () => {
  const page = document.getElementById("page"), wide = document.getElementById("wide");
  for (const address of PAGES) {
    await new Promise(loaded => { page.onload = loaded; page.src = address; });
    const elements = [...page.contentDocument.querySelectorAll("article *")];
    const first = elements.find(e => e.getBoundingClientRect().right > 391 && !scrolls(e.parentElement));
    if (first) wide.textContent += `${address}: ${first.outerHTML.slice(0, 200)} `;
  }
  wide.textContent += "All were opened.";
})()
</script>"""
"""Opens every page at the width of a phone, and shows the first element that is wider and in nothing that scrolls."""


@pytest.mark.skipif(not shutil.which("chromium"), reason="Chromium is not installed")
def test_no_page_is_wider_than_a_phone(site, tmp_path):
    """Tables and code scroll inside; the page does not."""
    pages = [page.relative_to(site).as_posix() for page in sorted(site.rglob("*.html"))]
    widths = site / "widths.html"
    widths.write_text(WIDTHS.replace("PAGES", json.dumps(pages)), encoding="utf-8")
    try:
        opened = subprocess.run(
            [
                "chromium",
                "--headless",
                "--no-sandbox",
                "--allow-file-access-from-files",
                f"--user-data-dir={tmp_path}",
                "--virtual-time-budget=600000",
                "--dump-dom",
                widths.as_uri(),
            ],
            capture_output=True,
            text=True,
            check=True,
            timeout=240,
        )
    finally:
        widths.unlink()
    assert '<pre id="wide">All were opened.</pre>' in opened.stdout


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
