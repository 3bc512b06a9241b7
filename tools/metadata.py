"""The package's description and addresses: hatchling runs this when it builds gradstep (pyproject.toml names the file).

The README links to files beside it, and on a package index these links lead nowhere. Once pyproject.toml has the
repository's public address, they become links to the files of this version there; until then, plain text.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

LINK = re.compile(r"(!?)\[([^\[\]]*)\]\((?!https?:|#)([^)\s]+)\)")
VERSION = re.compile(r'^__version__ = "(.+)"$', re.MULTILINE)


def description(readme: str, address: str, version: str) -> str:
    """Return the README for a package index.

    Args:
        readme: Markdown with links relative to the repository's root.
        address: the repository's public address, such as ``https://example.org/gradstep``; empty: there is none yet,
            links become their texts, and pictures are left out.
        version: the version whose files are linked to, by its tag.
    """

    def replace(link: re.Match[str]) -> str:
        picture, text, target = link.groups()
        if not address:
            return "" if picture else text
        return f"{picture}[{text}]({address}/{'raw' if picture else 'blob'}/v{version}/{target})"

    return LINK.sub(replace, readme)


def addresses(address: str, version: str) -> dict[str, str]:
    """Return the project's addresses by their names; none without an address."""
    files = {"Documentation": "docs/index.md", "Changelog": "CHANGELOG.md"}
    linked = {name: f"{address}/blob/v{version}/{file}" for name, file in files.items()}
    return {"Repository": address, **linked} if address else {}


class Metadata(MetadataHookInterface):
    """Fills in ``readme`` and ``urls`` of ``[project]``."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Add the two fields to the metadata."""
        root, address = Path(self.root), self.config["address"].rstrip("/")
        match = VERSION.search((root / "src/gradstep/__init__.py").read_text(encoding="utf-8"))
        if match is None:
            raise ValueError("src/gradstep/__init__.py has no line that sets __version__")
        text = description((root / "README.md").read_text(encoding="utf-8"), address, match[1])
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
        metadata["urls"] = addresses(address, match[1])
