"""Settings of the site, which ``make docs`` builds from these pages and the docstrings.

Sphinx makes it: it reads docstrings as they are written here (``:class:`` and ``:meth:`` are its own), in strict mode
a broken link is an error, and its search needs no server. MyST reads Markdown; Furo is the theme: dark mode, phones,
and no script or font from another site. Formulas become MathML, which browsers draw without a script.
"""

from __future__ import annotations

import ast
import importlib
from pathlib import Path
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert

import gradstep
from gradstep.variants import VARIANTS

project = "gradstep"
author = project_copyright = "The gradstep authors"
version = release = gradstep.__version__
root_doc = "index"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
suppress_warnings = ["config.cache"]

myst_enable_extensions = ["attrs_inline", "colon_fence", "substitution"]
myst_heading_anchors = 4

autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_preserve_defaults = True
autodoc_type_aliases = {
    name: name for name in ("Array", "DTypeLike", "EllipsisType", "NDArray", "ParamsT", "LossFn", "Data")
}
autodoc_member_order = "bysource"
napoleon_use_ivar = True
napoleon_numpy_docstring = False
nitpicky = True
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"

html_math_renderer = "mathml"
html_theme = "furo"
html_title = "gradstep"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = html_show_sphinx = html_show_sourcelink = False
highlight_options = {"pycon": {"stripnl": True}}  # a doctest ends in an empty line, which need not be shown
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# -- public names -----------------------------------------------------------------------------------------------------

MODULES = ("gradstep", "gradstep.numpy", "gradstep.rules", "gradstep.schedules")
PUBLIC = {name: f"{module}.{name}" for module in reversed(MODULES) for name in importlib.import_module(module).__all__}
"""The name that users import, by the last part of a name; of two, the first module's."""


def _describe(rule: str, state: str, paged: bool) -> str:
    """Return a sentence on a variant of an optimizer."""
    settings = [f'``state="{state}"``'] * (state != "float32") + ["``paged=True``"] * paged
    return f":class:`{rule}` with {' and '.join(settings)} as defaults."


def _names(statement: ast.AST) -> list[str]:
    """Return the names that a statement defines."""
    if isinstance(statement, (ast.ClassDef, ast.FunctionDef)):
        return [statement.name]
    targets = getattr(statement, "targets", [getattr(statement, "target", None)])
    return [target.id for target in targets if isinstance(target, ast.Name)]


INTERNAL = {
    name
    for path in Path(gradstep.__file__).parent.rglob("*.py")
    for statement in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    for name in _names(statement)
}
"""Names of classes, functions and variables in gradstep's source; a reference to a private one is plain text."""

_ENTRIES = "".join(f".. py:class:: {name}(params, ...)\n\n   {_describe(*VARIANTS[name])}\n\n" for name in VARIANTS)
myst_substitutions = {"variants": f"```{{eval-rst}}\n.. currentmodule:: gradstep\n\n{_ENTRIES}```"}


def _resolve(app: Any, env: Any, node: Any, content: Any) -> Any:
    """Resolve a reference by the name that users import; to a private or foreign object, as plain text."""
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"]
    last = target.rsplit(".", 1)[-1]
    is_foreign = "." in target and not target.startswith("gradstep")
    if last in PUBLIC and target != PUBLIC[last] and not is_foreign:
        node["reftarget"] = PUBLIC[last]
        kind = node["reftype"]
        return env.get_domain("py").resolve_xref(env, node["refdoc"], app.builder, kind, PUBLIC[last], node, content)
    return content if is_foreign or last in INTERNAL or last in autodoc_type_aliases else None


_ORIGINAL: dict[str, list[str]] = {}


def _remember(app: Any, kind: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Keep an attribute's docstring from Napoleon, which reads "A fact: the reason." as "type: meaning"."""
    if kind in {"attribute", "data", "property"}:
        _ORIGINAL[name] = list(lines)


def _restore(app: Any, kind: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Give an attribute its docstring back."""
    if name in _ORIGINAL:
        lines[:] = _ORIGINAL.pop(name)


def _write_defaults(
    app: Any, kind: str, name: str, thing: Any, options: Any, signature: str | None, returns: Any
) -> Any:
    """Write the default of a dataclass field that a function makes as "...", which Sphinx can read."""
    return (signature.replace("<factory>", "..."), returns) if "<factory>" in (signature or "") else None


# -- formulas ---------------------------------------------------------------------------------------------------------


def _visit_math(self: Any, node: Any) -> None:
    display = isinstance(node, nodes.math_block)
    latex = node.astext()
    if display and "\\\\" in latex:
        latex = rf"\begin{{split}}{latex}\end{{split}}"
    self.body.append(convert(latex, display="block" if display else "inline"))
    raise nodes.SkipNode


def setup(app: Any) -> None:
    """Tell Sphinx about the functions above."""
    app.connect("missing-reference", _resolve)
    app.connect("autodoc-process-signature", _write_defaults)
    app.connect("autodoc-process-docstring", _remember, priority=400)  # Napoleon has 500
    app.connect("autodoc-process-docstring", _restore, priority=600)
    app.add_html_math_renderer("mathml", (_visit_math, None), (_visit_math, None))
