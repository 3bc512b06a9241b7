"""The process in which a submission runs: loads the file, judges it, tells its parent what it is at."""

from __future__ import annotations

import importlib.util
import inspect
import json
import sys
from importlib.machinery import SOURCE_SUFFIXES
from pathlib import Path
from types import ModuleType
from typing import Any, final

from gradstep.judge.checking import check, rule_of
from gradstep.judge.observe import said
from gradstep.judge.sources import TextLoader, import_from_text
from gradstep.judge.verdict import Status, Verdict


@final
class LoadError(Exception):
    """The file, or what is asked of it, cannot be had."""


def main() -> None:
    """Judge what the request on the standard input names; each event is a line of JSON after the request's token."""
    request = json.load(sys.stdin)
    target, rule, options = request["target"], request["rule"], request["options"]
    token = request.pop("token")
    with Path(request.pop("events")).open("a", encoding="utf-8", buffering=1) as out:

        def tell(**event: Any) -> None:
            out.write(f"{token} {json.dumps(event, default=repr)}\n")

        file, _, name = target.rpartition(":") if ".py:" in target else (target, "", "")
        text = Path(file).read_text("utf-8", errors="replace") if Path(file).is_file() else ""
        if "torch" in text or "gradstep" in text:  # a gradstep rule is judged as the PyTorch optimizer made of it
            import torch  # loading it is no part of the submission's time, nor what it loads for its first optimizer

            torch.optim.SGD([torch.zeros(1)])
        tell(probe="loading the file")
        try:
            module = load(Path(file))
            submission = pick(module, name)
            parameter = pick(module, request["parameter"]) if request["parameter"] else None
            try:
                judged_by = rule_of(rule)
            except ValueError as error:
                raise LoadError(str(error)) from error
            verdict = check(
                submission,
                judged_by,
                request["settings"],
                parameter=parameter,
                watch=lambda probe: tell(probe=probe),
                **options,
            )
        except LoadError as error:
            verdict = Verdict(target, rule, options["convention"], Status.UNJUDGED, f"It could not be judged: {error}.")
        tell(verdict=verdict.as_dict())


def load(file: Path) -> ModuleType:
    """The file as a module, from the text that is in it now; what lies beside it can be imported.

    It is for a process that does nothing else: see :func:`~gradstep.judge.sources.import_from_text`.

    Raises:
        LoadError: it does not exist, or does not import.
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
        raise LoadError(f"{file.name} does not import: {said(error)}") from error
    return module


def pick(module: ModuleType, name: str) -> Any:
    """What is called ``name`` in the module; without a name, the one class or function that is defined there.

    Raises:
        LoadError: nothing is called so, or it is not plain which is meant.
    """
    own = {n: v for n, v in vars(module).items() if _own(v, module) and not n.startswith("_")}
    if name:
        if name not in vars(module):
            raise LoadError(f"{module.__name__} defines no {name!r}; it has {', '.join(own) or 'nothing'}")
        return vars(module)[name]
    steppers = [v for v in own.values() if inspect.isclass(v) and "step" in dir(v)] or list(own.values())
    if len(steppers) != 1:
        raise LoadError(f"say which is meant, as FILE.py:NAME; it has {', '.join(own) or 'nothing'}")
    return steppers[0]


def _own(value: Any, module: ModuleType) -> bool:
    return (inspect.isclass(value) or inspect.isfunction(value)) and value.__module__ == module.__name__


if __name__ == "__main__":
    main()
