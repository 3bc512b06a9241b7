"""The process in which a submission runs: loads the file, judges it, reports each probe to its parent.

User files are imported from their text: old bytecode is never read, and none is written. Python trusts a ``.pyc`` if
the source has the same length and was written in the same second; an editor that turns ``+=`` into ``-=`` and saves at
once leaves both unchanged.
"""

import importlib
import importlib.util
import inspect
import json
import site
import sys
import sysconfig
from importlib.machinery import EXTENSION_SUFFIXES, SOURCE_SUFFIXES, ExtensionFileLoader, FileFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, final

from gradstep.judge.checking import check, find_rule
from gradstep.judge.subjects.subject import describe_error
from gradstep.judge.verdict import Status, Verdict
from gradstep.rules import Rule


@final
class LoadError(Exception):
    """The file, or the name in it, cannot be loaded."""


def main() -> None:
    """Judge the submission of the request on standard input; write each event as the token and a line of JSON."""
    request = json.load(sys.stdin)
    target, rule, options = request["target"], request["rule"], request["options"]
    token = request.pop("token")
    with Path(request.pop("events")).open("a", encoding="utf-8", buffering=1) as out:

        def send(**event: Any) -> None:
            out.write(f"{token} {json.dumps(event, default=repr)}\n")

        file, _, name = target.rpartition(":") if ".py:" in target else (target, "", "")
        text = Path(file).read_text("utf-8", errors="replace") if Path(file).is_file() else ""
        if "torch" in text or "gradstep" in text:  # a gradstep rule is judged as a PyTorch optimizer
            import torch  # its loading, and that of its first optimizer, does not count as the submission's time

            torch.optim.SGD([torch.zeros(1)])
        send(probe="loading the file")
        try:
            module = load_file(Path(file))
            submission = pick(module, name)
            parameter = pick(module, request["parameter"]) if request["parameter"] else None
            if request["exam"]:
                examiner, _, function = request["exam"].partition(":")
                verdict = vars(importlib.import_module(examiner))[function](submission, options["kind"])
            else:
                verdict = check(
                    submission,
                    _find_rule(rule),
                    request["settings"],
                    parameter=parameter,
                    watch=lambda probe: send(probe=probe),
                    **options,
                )
        except LoadError as error:
            verdict = Verdict(target, rule, options["convention"], Status.UNJUDGED, f"It could not be judged: {error}.")
        send(verdict=verdict.as_dict())


def _find_rule(name: str) -> type[Rule]:
    try:
        return find_rule(name)
    except ValueError as error:
        raise LoadError(str(error)) from error


@final
class TextLoader(SourceFileLoader):
    """Compiles the text of a file each time, and writes no bytecode."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


def import_from_text(folder: Path) -> None:
    """Let this process import from text whatever lies in ``folder`` or in no installed library.

    It changes the imports of the whole process, which should do nothing but judge.
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
    """Return a finder, as a path hook does; raise ImportError for folders that the usual finder reads."""
    place = Path(path).resolve()
    if any(library == place or library in place.parents for library in _LIBRARIES):
        raise ImportError("an installed library", path=path)
    if not Path(path).is_dir():
        raise ImportError("only folders are searched", path=path)
    return FileFinder(path, (ExtensionFileLoader, EXTENSION_SUFFIXES), (TextLoader, SOURCE_SUFFIXES))


def load_file(file: Path) -> ModuleType:
    """Import the file from its present text, with its neighbours importable too.

    It is for a process that does nothing else: see :func:`import_from_text`.

    Raises:
        LoadError: the file does not exist, or does not import.
    """
    if not file.is_file():
        raise LoadError(f"there is no file {file}")
    if file.stem in {*sys.modules, *sys.stdlib_module_names, "torch", "numpy"}:
        raise LoadError(f"{file.name} has the name of a library: whatever imports that would get your file; rename it")
    loader = TextLoader(file.stem, str(file))
    spec = importlib.util.spec_from_file_location(file.stem, file, loader=loader)
    if file.suffix not in SOURCE_SUFFIXES or spec is None:
        raise LoadError(f"{file} is no Python file")
    module = importlib.util.module_from_spec(spec)
    import_from_text(file.resolve().parent)
    sys.modules[file.stem] = module
    try:
        loader.exec_module(module)
    except BaseException as error:
        raise LoadError(f"{file.name} does not import: {describe_error(error)}") from error
    return module


def pick(module: ModuleType, name: str) -> Any:
    """Return the object ``name`` of the module; without a name, the one class or function that it defines.

    Raises:
        LoadError: there is no such name, or without a name there are several candidates.
    """
    candidates: dict[str, Any] = {n: v for n, v in vars(module).items() if inspect.isclass(v) or inspect.isfunction(v)}
    own = {n: v for n, v in candidates.items() if v.__module__ == module.__name__ and not n.startswith("_")}
    if name:
        if name not in vars(module):
            raise LoadError(f"{module.__name__} defines no {name!r}; it has {', '.join(own) or 'nothing'}")
        return vars(module)[name]
    steppers = [v for v in own.values() if inspect.isclass(v) and "step" in dir(v)] or list(own.values())
    if len(steppers) != 1:
        raise LoadError(f"say which is meant, as FILE.py:NAME; it has {', '.join(own) or 'nothing'}")
    return steppers[0]


if __name__ == "__main__":
    main()
