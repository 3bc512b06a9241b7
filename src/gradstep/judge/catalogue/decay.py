"""Weight decay: in the wrong place, of the wrong size, at the wrong time."""

from collections.abc import Callable
from functools import partial

from gradstep.judge.algebra.expression import GRADIENT, KEEP, MOVE, ONE, ZERO, G, Node, P, call, mul
from gradstep.judge.algebra.program import (
    Average,
    Program,
    coupled_decay,
    decoupled_decay,
    divide_terms,
    only,
    replace_denominators,
    require,
    step_size,
)
from gradstep.judge.formula import Edit, RuleChange, any_of, habit


def _change_decoupled(change: Callable[[Program, Node], Node], program: Program) -> Program:
    """Replace the factor of the decay on the weight by ``change`` of it."""
    return program.replace(keep=1 - change(program, decoupled_decay(program)))


def _change_coupled(change: Callable[[Program, Node], Node], program: Program) -> Program:
    """Replace the factor of the decay in the gradient by ``change`` of it."""
    return program.replace(G=G + change(program, coupled_decay(program)) * P)


def _scale(factor: float) -> Edit:
    return any_of(*(partial(change, lambda p, d: factor * d) for change in (_change_decoupled, _change_coupled)))


def _move_to_gradient(program: Program) -> Program:
    decoupled_decay(program)
    return program.replace(G=program["G"] + program.setting("weight_decay") * P, keep=ONE)


def _move_to_weight(program: Program) -> Program:
    decay = program.setting("lr") * coupled_decay(program)
    return program.replace(G=G, keep=program["keep"] - decay)


def _decay_twice(program: Program) -> Program:
    decay, lr = program.setting("weight_decay"), program.setting("lr")
    return program.replace(G=G + decay * P, keep=1 - lr * decay)


def _decay_after(program: Program) -> Program:
    require(program["keep"] is not ONE, "decay on the weight")
    return program.replace(p=KEEP * (P - MOVE))


def _multiply_by_step_size(program: Program) -> Program:
    """Multiply the decay by the step size, as in ``step_size * (update + weight_decay * p)``."""
    size = step_size(program)
    require(size is not program.setting("lr"), "other factor of the step")
    return _change_decoupled(lambda p, d: p.setting("weight_decay") * size, program)


def _multiply_by_corrections(program: Program) -> Program:
    corrections = program.correction_of("v").node ** 0.5 / program.correction_of("m").node
    return _change_decoupled(lambda p, d: d * corrections, program)


def _skip_at_zero(program: Program) -> Program:
    moving = call("ne", GRADIENT if program["G"] is G else G, ZERO)
    changed = program
    if program["keep"] is not ONE:
        changed = changed.replace(p=program["p"].substitute(KEEP * P, call("where", moving, KEEP * P, P)))
    if program["G"] is not G:
        changed = changed.replace(G=call("where", call("ne", G, ZERO), program["G"], G))
    return changed


def _decay_along(direction: Node, program: Program) -> Program:
    """Multiply the decay by ``direction`` instead of the weight."""
    if program["keep"] is not ONE:
        return program.replace(keep=ONE, p=program["p"] - decoupled_decay(program) * direction)
    return program.replace(G=G + coupled_decay(program) * direction)


def _decay_before_and_after(program: Program) -> Program:
    """Decay the weight before the update and again after it."""
    require(program["keep"] is not ONE, "decay on the weight")
    return program.replace(p=KEEP * program["p"])


def _move_to_numerator(program: Program) -> Program:
    """Add the decay to the average gradient, so that it is divided by the root too."""
    new = only(program.first_moments, "average").new
    decay = program.setting("weight_decay") * P
    along, rest = program["step"].linear(new)
    require(program.second_moments and along is not ZERO, "step along an average over a root")
    step = along * new + along * _undo_corrections(along) * decay + rest
    return program.replace(G=G, keep=ONE, step=step)


def _move_to_denominator(program: Program) -> Program:
    decay = program.setting("weight_decay") * P
    decoupled_decay(program)
    return replace_denominators(program, lambda d: d.node + decay).replace(keep=ONE)


def _undo_corrections(along: Node) -> Node:
    """Return the factor that undoes the corrections of the average, which the decay does not have."""
    own = [f for f in along.factors if f.scalar and f.split_power()[0].complement is not None]
    return mul(*(1 / f for f in own))


def _in_one_moment(own: Callable[[Program], tuple[Average, ...]], program: Program) -> Program:
    """Add the decay to the gradient of one moment only."""
    require(program.first_moments and program.second_moments, "two averages")
    whole = G + program.setting("weight_decay") * P
    names = {a.name for a in own(program)}
    parts = {n: e.substitute(GRADIENT, whole if n in names else G) for n, e in program.parts.items()}
    return program.replace(**{**parts, "G": G, "keep": ONE})


remove_decay = _scale(0.0)
"""The edit that leaves the decay out."""

CHANGES: dict[str, Edit | RuleChange] = {
    "decay-in-gradient": RuleChange(_move_to_gradient, when=decoupled_decay),
    "decay-on-weight": RuleChange(_move_to_weight, when=coupled_decay),
    "decay-after": _decay_after,
    # As where a schedule's multiplier takes the place of lr.
    "decay-without-lr": partial(_change_decoupled, lambda p, d: divide_terms(d, p.setting("lr"))),
    "decay-lr-twice": partial(_change_decoupled, lambda p, d: p.setting("lr") * d),
    "decay-with-lr": partial(_change_coupled, lambda p, d: p.setting("lr") * d),
    "decay-by-step-size": _multiply_by_step_size,
    "decay-by-both-corrections": _multiply_by_corrections,
    "decay-in-numerator": _move_to_numerator,
    "decay-in-denominator": _move_to_denominator,
    "decay-in-m-only": partial(_in_one_moment, lambda p: p.first_moments),
    "decay-in-v-only": partial(_in_one_moment, lambda p: p.second_moments),
    "decay-sign": _scale(-1),
    "decay-doubled": _scale(2),
    "decay-halved": _scale(0.5),
    "decay-twice": _decay_twice,
    "decay-without-weight": partial(_decay_along, ONE),
    "decay-of-gradient": partial(_decay_along, G),
    "decay-before-and-after": _decay_before_and_after,
    "decay-of-sign": partial(_decay_along, call("sign", P)),
    "decay-skipped-at-zero": _skip_at_zero,
    "skips-zero-gradients": habit(skips_zero=True),
}
