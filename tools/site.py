"""Build the site: `python tools/site.py [--out build/site]`, or `make docs`.

The pages of docs/ are copied to a folder of their own, with every file of the repository that one of them links to
(examples, results of benchmarks), and links between them are rewritten. Sphinx builds the copy; a warning is an error.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(!?)\[([^\[\]]*)\]\((?!https?:|mailto:|#|/)([^)#\s]+)(#[^)\s]*)?\)")
LANGUAGES = {".py": "python", ".json": "json", ".jsonl": "json"}
NOT_PAGES = {"docs/course-walk.md"}  # screens as they were captured, 1,800 lines


def page_of(path: str) -> str:
    """Return the page, from the site's root, that shows a file of the repository.

    >>> [page_of(path) for path in ("docs/check.md", "examples/recipe.py", "benchmarks/results/core.md")]
    ['check.md', 'examples/recipe.py.md', 'benchmarks/results/core.md']
    """
    path = path.removeprefix("docs/")
    return path if path.endswith(".md") else f"{path}.md"


def assemble(source: Path) -> None:
    """Write the source of the site to an empty folder."""
    for path in (ROOT / "docs").rglob("*"):
        if path.is_file() and path.suffix not in {".md", ".jsonl"}:
            _copy(path, source / path.relative_to(ROOT / "docs"))
    pages = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").rglob("*.md"))]
    pages = [path for path in pages if path not in NOT_PAGES]
    linked = list(pages)
    for path in linked:  # grows by the files that are linked to
        text = (ROOT / path).read_text(encoding="utf-8")
        if path.endswith(".md"):
            text = LINK.sub(lambda link, path=path: _rewrite(link, path, linked, source), text)
        else:
            text = f"# {path}\n\n```{LANGUAGES.get(Path(path).suffix, 'text')}\n{text}\n```\n"
        page = source / page_of(path)
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(text if path in pages else f"---\norphan: true\n---\n\n{text}", encoding="utf-8")


def _rewrite(link: re.Match[str], path: str, linked: list[str], source: Path) -> str:
    """Return a link of the file ``path`` for the site; a new target is added to ``linked``, or copied if a picture."""
    is_picture, text, target, anchor = link[1], link[2], link[3], link[4] or ""
    target = os.path.normpath(Path(path).parent / target)
    if is_picture:
        _copy(ROOT / target, source / target.removeprefix("docs/"))
        return f"![{text}](/{target.removeprefix('docs/')})"
    if target in NOT_PAGES or (ROOT / target).is_dir():
        return text
    if target not in linked and (ROOT / target).is_file():  # Sphinx reports a target that does not exist
        linked.append(target)
    return f"[{text}](/{page_of(target)}{anchor})"


def _copy(file: Path, copy: Path) -> None:
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, copy)


def main() -> int:
    """Build the site; return 0, or what Sphinx returns when it fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "site", help="the folder of the site (build/site)")
    out = parser.parse_args().out.resolve()
    source = out.with_name(f"{out.name}-source")
    for folder in (source, out):
        shutil.rmtree(folder, ignore_errors=True)
    source.mkdir(parents=True)
    assemble(source)
    from sphinx.cmd.build import main as build

    failed = build(["-b", "html", "-j", "auto", "-W", "--keep-going", "-q", str(source), str(out)])
    if not failed:
        print(f"{out / 'index.html'}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
