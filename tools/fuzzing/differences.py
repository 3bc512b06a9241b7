"""The intended differences between gradstep and torch.optim. `docs/fuzzing.md` shows this table."""

from __future__ import annotations

import re
from typing import NamedTuple

from fuzzing.cases import Case


class Difference(NamedTuple):
    """An intended difference.

    Attributes:
        name: of the difference.
        ours: pattern of gradstep's result (``"goes on"``, or its error).
        theirs: pattern of torch's result.
        where: pattern of the unusual parts of the case.
        reason: the reason for the difference.
    """

    name: str
    ours: str
    theirs: str
    where: str
    reason: str


DIFFERENCES = (
    Difference(
        "settings are checked at every step",
        ours=r"^(ValueError|TypeError) at .*(Invalid|must be|has no setting|Nesterov)",
        theirs="",
        where=r"(group|load): .*(lr|betas|weight_decay|eps|maximize|momentum)",
        reason="torch checks them when the optimizer is made, and computes with whatever a group holds later",
    ),
    Difference(
        "state is checked",
        ours=r"does not fit|holds more than this optimizer stores|must be a dictionary",
        theirs="",
        where=r"(state|load|entry|parameter|in place): ",
        reason="torch casts what is loaded (float64, integers, codes) and goes on with a step of -5 or NaN",
    ),
    Difference(
        "what is missing begins anew",
        ours="^goes on",
        theirs=r"KeyError|NoneType|IndexError|should be defined",
        where=r"entry: .*(deleted|in place of all)|step: deleted|(amsgrad|centered|momentum) on|lr missing|without lr",
        reason="a slot that was switched on, a setting of a loaded group, a count that decides nothing: as at first",
    ),
    Difference(
        "state is converted where that loses nothing",
        ours="^goes on",
        theirs="RuntimeError|TypeError|AttributeError",
        where=r"(state|load): \S+: (float|bfloat|expanded|of another order|strided|made in inf)|data of |entry: shared",
        reason="bfloat16 numbers are float32 numbers, and what is expanded or made in inference mode can be copied",
    ),
    Difference(
        "state of half-precision parameters",
        ours="^goes on",
        theirs="without overflow|expected dtype",
        where=r"(float16|complex32).*load: ",
        reason="it is kept in float32 or complex64, and torch casts it to the parameter's type",
    ),
    Difference(
        "a parameter whose type has changed",
        ours="^goes on",
        theirs="RuntimeError",
        where=r"data of (float|bfloat)",
        reason="its state is converted to the new type's",
    ),
    Difference(
        "sparse gradients",
        ours="do not support sparse gradients",
        theirs="",
        where="sparse",
        reason="torch's SGD, Adagrad and SparseAdam have a rule of their own for them",
    ),
    Difference(
        "the same parameter twice",
        ours="more than once",
        theirs="",
        where="twice",
        reason="torch warns and updates it twice a step",
    ),
    Difference(
        "memory that is shared",
        ours="share memory|shares memory|overlap",
        theirs="",
        where="",
        reason="arrays of state that share memory are refused; parameters that do are updated in turn, as in torch",
    ),
    Difference(
        "parameters of integers",
        ours="can only optimize floating-point or complex",
        theirs="",
        where="integers|booleans",
        reason="torch takes them as long as they have no gradient",
    ),
    Difference(
        "a gradient of another type",
        ours=r"changed from torch|the gradient of .* is torch\.",
        theirs="",
        where=r"of another type|of integers",
        reason="it was put there behind the setter of p.grad, which refuses it; torch lets it promote the state",
    ),
    Difference(
        "parameters without elements",
        ours="^goes on",
        theirs="ZeroDivisionError|ZeroTensors are immutable",
        where="empty|data shorter",
        reason="nothing is to be updated; torch's Adafactor divides by their number, and symbolic zeros refuse writes",
    ),
    Difference(
        "Adafactor and a parameter on meta",
        ours="^goes on",
        theirs=r"item\(\) cannot be called on meta",
        where="Adafactor.*meta",
        reason="torch asks for a norm as a number, which there is none of",
    ),
    Difference(
        "Adagrad before its first step",
        ours="^goes on",
        theirs="size of tensor",
        where="Adagrad.*data (shorter|longer|resized|flat)",
        reason="torch makes its state at construction, gradstep at the first step, for the new length",
    ),
    Difference(
        "conjugated parameters",
        ours="conjugated lazily",
        theirs="",
        where="conjugated",
        reason="torch's SGD takes them; its other optimizers fail in the middle of a step",
    ),
    Difference(
        "a gradient whose storage is too short",
        ours="the gradient of .* has no memory for its",
        theirs="",
        where="data short of memory",
        reason="torch reads what lies behind it",
    ),
    Difference(
        "conjugated gradients",
        ours="^goes on",
        theirs="unresolved conjugated",
        where="gradient conjugated",
        reason="the numbers that they stand for are copied; torch's optimizers but SGD fail in the middle of a step",
    ),
    Difference(
        "a learning rate that is a float32 tensor",
        ours="other numbers",
        theirs="apart",
        where="lr a tensor",
        reason="torch computes the coefficients of a step in the tensor's type, gradstep in float64",
    ),
    Difference(
        "numbers of another type",
        ours="^goes on",
        theirs="API has changed|AttributeError|singleton tensors|can't be cast to the desired output type",
        where=r"(step|mu_product): |entry: only a step",
        reason="a number kept once per parameter may be Python's, or an integer's tensor; torch wants one of float32",
    ),
    Difference(
        "after an infinity or a NaN",
        ours="other numbers",
        theirs="(NaN|infinite) in other places",
        where="gradient (inf|negative inf|nan|huge)|lr (huge|infinite)|"
        "(state|load|in place): .*(huge|NaN|negative|infinity|1e30|-5)",
        reason="torch adds in another order (inf - inf), and leaves out a decay of 0, here 0 times the parameter",
    ),
    Difference(
        "a centered variance below 0",
        ours="other numbers",
        theirs="NaN in other places",
        where="RMSprop.*in place: (grad_avg|square_avg): filled",
        reason="a mean that is larger than its square allows counts as a variance of 0; torch takes its root",
    ),
    Difference(
        "a tensor that is changed while it is read",
        ours="other numbers",
        theirs="apart|NaN",
        where="gradient (the parameter|a view of the parameter)|a slot that is the parameter|two slots in one array",
        reason="torch decays the parameter before it reads the gradient; here all is read before anything is written",
    ),
    Difference(
        "state of another type",
        ours="other numbers",
        theirs="apart",
        where=r"(state|load): .*float16|data of b?float",
        reason="torch leaves it in the type that it had; here it becomes that of the arithmetic",
    ),
    Difference(
        "a gradient of another kind than its parameter",
        ours="(gradient|parameter) .*(is on meta|is an? |has shape|without memory|wrapped|subclass)|other numbers",
        theirs="goes on|apart",
        where="gradient (TwoTensor|masked|subclass|of vmap|of grad|DTensor|fake|on meta)|meta",
        reason="torch leaves it to the gradient's class, which may leave a plain parameter where it is",
    ),
    Difference(
        "a learning rate beyond float32",
        ours="^goes on",
        theirs="without overflow",
        where="lr huge",
        reason="the step is infinite here",
    ),
    Difference(
        "masked parameters",
        ours="",
        theirs="",
        where="masked(;|$)",
        reason="few of torch's operations know them",
    ),
    Difference(
        "parameters of float8",
        ours="",
        theirs="NotImplementedError",
        where="float8",
        reason="torch has no arithmetic for them",
    ),
)
"""Every intended difference."""


def find_difference(case: Case, ours: str, theirs: str) -> str:
    """Return the name of the intended difference that explains two results, or ""."""
    kind = f"{case.optimizer}; {', '.join(case.parameters)}; {case.kind}"
    for one in DIFFERENCES:
        patterns = ((one.ours, ours), (one.theirs, theirs), (one.where, kind))
        if all(re.search(pattern, text) for pattern, text in patterns):
            return one.name
    return ""
