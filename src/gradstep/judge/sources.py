"""Import a user's files from their text: bytecode of before is never read, and none is left beside them.

Python takes a ``.pyc`` for current if the source has the same length and was written in the same second. An editor
that turns ``+=`` into ``-=`` and saves at once leaves both as they were.
"""

from __future__ import annotations

import site
import sys
import sysconfig
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    SourceFileLoader,
)
from pathlib import Path
from types import CodeType
from typing import final


@final
class TextLoader(SourceFileLoader):
    """Compiles the text of a file each time, and writes no bytecode."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


def import_from_text(folder: Path) -> None:
    """Let this process import what lies in ``folder``, and everything else that is no installed library, from text.

    It changes how the whole process imports, so it belongs into a process that does nothing but judge.
    """
    if _find_user_files not in sys.path_hooks:
        sys.path_hooks.insert(0, _find_user_files)
    sys.path_importer_cache.pop(str(folder), None)
    sys.path.insert(0, str(folder))


_LIBRARIES = tuple(
    Path(path).resolve()
    for path in {
        *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
        *site.getsitepackages(),
        site.getusersitepackages(),
    }
)


def _find_user_files(path: str) -> FileFinder:
    """Answer as a path hook does: a finder, or ImportError for what the usual finder shall read."""
    place = Path(path).resolve()
    if any(library == place or library in place.parents for library in _LIBRARIES):
        raise ImportError("an installed library", path=path)
    if not Path(path).is_dir():
        raise ImportError("only folders are searched", path=path)
    return FileFinder(path, (ExtensionFileLoader, EXTENSION_SUFFIXES), (TextLoader, SOURCE_SUFFIXES))
