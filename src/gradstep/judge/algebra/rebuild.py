"""Functions built anew from their code, so that ``math.sqrt`` and its like take symbols too."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import BuiltinFunctionType, FunctionType, SimpleNamespace
from typing import Any, final

from gradstep.judge.algebra.symbol import Symbol, UntraceableError
from gradstep.rules import Rule

_MATH: Mapping[Any, Callable[..., Symbol]] = {
    math.sqrt: lambda x: x.sqrt(),
    math.pow: lambda x, y: x**y if isinstance(x, Symbol) else y.__rpow__(x),
    math.fabs: abs,
    math.exp: lambda x: x.exp(),
    math.log: lambda x: x.log(),
}


def _on_symbols(function: Any) -> Any:
    """A function of the module ``math`` that also takes symbols."""

    def called(*args: Any) -> Any:
        if any(isinstance(a, Symbol) for a in args):
            if function not in _MATH:
                raise UntraceableError(f"a rule calls math.{function.__name__}")
            return _MATH[function](*args)
        return function(*args)

    return called


_SYMBOLIC_MATH = SimpleNamespace(
    **{name: _on_symbols(f) if callable(f) else f for name, f in vars(math).items() if not name.startswith("__")}
)


@final
class Rebuilt:
    """Functions built anew from their code, with a ``math`` that takes symbols among their globals."""

    def __init__(self) -> None:
        self.known: dict[FunctionType, FunctionType] = {}

    def function(self, original: FunctionType) -> FunctionType:
        if original not in self.known:
            scope: dict[str, Any] = {}
            new = FunctionType(original.__code__, scope, original.__name__, original.__defaults__, original.__closure__)
            new.__kwdefaults__ = original.__kwdefaults__
            self.known[original] = new
            names = set(original.__code__.co_names)
            used = {n: v for n, v in original.__globals__.items() if n in names or n == "__builtins__"}
            scope |= {name: self.value(value) for name, value in used.items()} | {"__name__": original.__module__}
        return self.known[original]

    def value(self, value: Any) -> Any:
        if value is math:
            return _SYMBOLIC_MATH
        if isinstance(value, BuiltinFunctionType) and value.__module__ == "math":
            return _on_symbols(value)
        ours = isinstance(value, FunctionType) and (value.__module__ or "").partition(".")[0] == "gradstep"
        return self.function(value) if isinstance(value, FunctionType) and not ours else value

    def rule(self, rule: type[Rule]) -> type[Rule]:
        """The class with its functions rebuilt, whose instances may hold symbols."""
        made: dict[str, Any] = {}
        for base in reversed(rule.__mro__):
            if base is object:
                continue
            for name, value in vars(base).items():
                if name.startswith("__"):
                    continue
                if isinstance(value, FunctionType):
                    made[name] = self.function(value)
                elif isinstance(value, staticmethod) and isinstance(value.__func__, FunctionType):
                    made[name] = staticmethod(self.function(value.__func__))
                elif isinstance(value, property) and isinstance(value.fget, FunctionType):
                    made[name] = property(self.function(value.fget))
        return type(rule.__name__, (rule,), made)
