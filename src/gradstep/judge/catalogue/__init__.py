"""The known mistakes and conventions: each is an edit that applies to every rule with a place for it."""

from gradstep.judge.catalogue.mistake import CONVENTIONS, MISTAKES, Variant, catalogue, distinct, variants
from gradstep.judge.formula import Mistake

__all__ = ["CONVENTIONS", "MISTAKES", "Mistake", "Variant", "catalogue", "distinct", "variants"]
