"""Edits of source: what a pattern finds and what it leaves alone."""

import ast

import pytest

from gradstep.judge.rewrite import Edit, apply, compiled, tree_of
from gradstep.rules import RULES


def after(text, find, replace):
    (tree,) = ast.parse(text).body
    assert isinstance(tree, ast.FunctionDef)
    return apply(Edit(find, replace), tree), tree


@pytest.mark.parametrize(
    ("find", "replace", "places", "result"),
    [
        ("x * x", "x", 1, 11.0),  # 2 + 9
        ("_a * _a", "_a", 2, 5.0),
        ("x", "(x + 1)", 3, 25.0),  # both factors and the assigned value: the name assigned to is no value
        ("_a + y * y", "_a - y * y", 1, -5.0),
        ("z", "0", 0, 13.0),
    ],
)
def test_an_expression_is_found_wherever_it_stands(find, replace, places, result):
    found, tree = after("def f(x, y):\n    x = x\n    return x * x + y * y", find, replace)
    assert found == places
    assert compiled(tree, {})(2.0, 3.0) == result


def test_what_a_placeholder_stood_for_is_put_back():
    found, tree = after("def f(a, b):\n    return (a + 1) / (b - 1)", "_x / (_y - 1)", "_y / _x")
    assert found == 1
    assert compiled(tree, {})(3.0, 8.0) == 2.0


def test_attributes_are_bound_by_name():
    _, tree = after("def f(s):\n    s.m = s.m + 1\n    return s", "s._m = s._m + 1", "s._m = s._m + 2")

    class S:
        m = 1

    assert compiled(tree, {})(S()).m == 3


def test_a_statement_may_become_two():
    found, tree = after("def f(x):\n    y = x + 1\n    return y", "y = _v", "y = _v\ny = y * 10")
    assert found == 1
    assert compiled(tree, {})(1) == 20


def test_a_function_that_ends_in_another_with_its_own_arguments_is_read_with_its_lines():
    """Adam's decay and AdamW's moments are written in two places; a mistake may be in either."""
    own, base = (ast.unparse(tree_of(rule.update)).splitlines() for rule in (RULES["Adam"], RULES["AdamW"]))
    assert own == [base[0], "    g = g + c.l2 * p", *base[1:]]
