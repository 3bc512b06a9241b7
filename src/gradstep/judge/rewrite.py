"""Edits of a function's source: find a piece of Python, put another in its place.

A known mistake is a few such edits of the lines of a rule. In a pattern, a name that begins with an underscore stands
for any expression (``sqrt(_v) + c.eps``), an attribute that does for any attribute (``s._m``); what it stood for is
put where the replacement names it again.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from typing import Any, final


class NotFoundError(LookupError):
    """The pattern of an edit occurs nowhere in the functions that it should change."""


@final
@dataclass(frozen=True)
class Edit:
    """One replacement: every place that looks like ``find`` becomes ``replace``.

    Attributes:
        find: an expression or one statement, with ``_names`` for anything.
        replace: what takes its place; for a statement, one or more statements.
    """

    find: str
    replace: str


@cache
def _source(function: Callable[..., Any]) -> str:
    return textwrap.dedent(inspect.getsource(function))


def tree_of(function: Callable[..., Any]) -> ast.FunctionDef:
    """The syntax tree of a function, without decorators; a new one at each call.

    If it ends by calling another with its own arguments, ``return Base.update(p, g, s, c)``, that one's lines stand
    there instead: an edit is to find them wherever they are written.
    """
    (tree,) = ast.parse(_source(function)).body
    if not isinstance(tree, ast.FunctionDef):
        raise TypeError(f"{function!r} is not a function that `def` made")
    tree.decorator_list = []
    match tree.body[-1]:
        case ast.Return(ast.Call(func=ast.Attribute() as called, args=given, keywords=[])) if given and [
            ast.unparse(a) for a in given
        ] == [a.arg for a in tree.args.args]:
            base = eval(ast.unparse(called), function.__globals__)
            tree.body[-1:] = tree_of(base).body
    return tree


def apply(edit: Edit, tree: ast.FunctionDef) -> int:
    """Make the edit wherever its pattern occurs in the tree, which is changed; in how many places that is."""
    rewriter = _Rewriter(*_pieces(edit))
    rewriter.visit(tree)
    return rewriter.places


def compiled(tree: ast.FunctionDef, names: Mapping[str, Any]) -> Callable[..., Any]:
    """The function as Python runs it, with ``names`` as its globals."""
    module = ast.fix_missing_locations(ast.Module([tree], type_ignores=[]))
    scope = dict(names)
    exec(compile(module, f"<edited {tree.name}>", "exec"), scope)
    function: Callable[..., Any] = scope[tree.name]
    return function


@cache
def _pieces(edit: Edit) -> tuple[ast.AST, tuple[ast.stmt, ...]]:
    (find,) = ast.parse(edit.find).body
    replace = tuple(ast.parse(edit.replace).body)
    return (find.value if isinstance(find, ast.Expr) else find), replace


@final
class _Rewriter(ast.NodeTransformer):
    def __init__(self, find: ast.AST, replace: tuple[ast.stmt, ...]) -> None:
        self.find, self.replace, self.places = find, replace, 0

    def visit(self, node: ast.AST) -> Any:
        bound: dict[str, Any] = {}
        if not _alike(self.find, node, bound):
            return self.generic_visit(node)
        self.places += 1
        filled = [_Filler(bound).visit(deepcopy(statement)) for statement in self.replace]
        if isinstance(self.find, ast.stmt):
            return filled
        return filled[0].value


@final
class _Filler(ast.NodeTransformer):
    """Puts what the placeholders stood for into the replacement."""

    def __init__(self, bound: Mapping[str, Any]) -> None:
        self.bound = bound

    def visit_Name(self, node: ast.Name) -> Any:
        return deepcopy(self.bound.get(node.id, node))

    def visit_Attribute(self, node: ast.Attribute) -> Any:
        self.generic_visit(node)
        node.attr = self.bound.get("." + node.attr, node.attr)
        return node


def _alike(pattern: Any, node: Any, bound: dict[str, Any]) -> bool:
    if isinstance(pattern, ast.Name) and pattern.id.startswith("_"):
        if not isinstance(node, ast.expr):
            return False
        return ast.dump(bound.setdefault(pattern.id, node)) == ast.dump(node)
    if type(pattern) is not type(node):
        return False
    if isinstance(pattern, ast.Attribute) and pattern.attr.startswith("_"):
        known = bound.setdefault("." + pattern.attr, node.attr)
        return known == node.attr and _alike(pattern.value, node.value, bound)
    if isinstance(pattern, ast.AST):
        # An assigned name is no value that could be replaced, so Load and Store are told apart.
        return all(_alike(getattr(pattern, f), getattr(node, f), bound) for f in pattern._fields if f != "type_comment")
    if isinstance(pattern, list):
        return len(pattern) == len(node) and all(_alike(a, b, bound) for a, b in zip(pattern, node))
    return bool(pattern == node)
