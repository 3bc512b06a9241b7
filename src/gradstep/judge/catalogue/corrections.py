"""Bias correction: missing, made twice, inverted, at the wrong step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from gradstep.judge.algebra.anatomy import (
    Correction,
    NotFoundError,
    Replacement,
    averages,
    correction_of,
    corrections,
    corrections_of,
    first_moments,
    replace_corrections,
    require,
    second_moments,
    settings,
)
from gradstep.judge.algebra.expression import ONE, STEP, Node, contains, substitute, walk
from gradstep.judge.algebra.program import Program
from gradstep.judge.catalogue.mistake import ADAM_PAPER, Mistake, all_of, any_of, habit
from gradstep.judge.formula import Edit

_mistake = partial(Mistake, read=ADAM_PAPER + " and section 3")
_MOMENTS = {
    "m": {"words": "average gradient", "letter": "m", "beta": "beta1", "other": "beta2", "wrong": "β₂"},
    "v": {"words": "average square", "letter": "v", "beta": "beta2", "other": "beta1", "wrong": "β₁"},
}


def _replace(by: Replacement) -> Callable[[str], Edit]:
    """Return what makes the edit of a moment that replaces each of its corrections by ``by`` of it."""
    return lambda moment: lambda program: replace_corrections(program, moment, by)


_remove = _replace(lambda c, e: ONE)


def _has(program: Program, moment: str) -> bool:
    try:
        return bool(corrections_of(program, moment))
    except NotFoundError:
        return False


def _swap(program: Program) -> Program:
    m, v = correction_of(program, "m"), correction_of(program, "v")
    swap = {m.node: v.node, v.node: m.node}
    return program.rewrite(lambda n: swap.get(n, n), "step")


def _use_other_beta(moment: str) -> Edit:
    def edit(program: Program) -> Program:
        wrong = {m: correction_of(program, m).node for m in "mv"}
        return replace_corrections(program, moment, lambda c, e: wrong["v" if moment == "m" else "m"] ** e)

    return edit


def _change(change: Callable[[Correction], Node]) -> Callable[[str], Edit]:
    """Return what makes the edit of a moment that replaces its corrections by powers of β by ``change`` of them."""
    return _replace(lambda c, e: change(c) ** e if c.beta is not None else require(None, "power of beta"))


def _beta(c: Correction) -> Node:
    beta: Node = c.of.args[0]
    return beta


_correct_as_at_first = _change(lambda c: substitute(c.node, c.of, _beta(c)))


def _store_corrected(moment: str) -> Edit:
    """Keep the corrected averages as the state, and use them as they are."""

    def edit(program: Program) -> Program:
        stored, c = dict(program.parts), correction_of(program, moment)
        for average in first_moments(program) if moment == "m" else second_moments(program):
            if average.old_weight is c.beta:
                stored[average.name] = program[average.name] / c.node
        return program.with_parts({**stored, "step": _remove(moment)(program)["step"]})

    return edit


def _has_both(program: Program) -> bool:
    return _has(program, "m") and _has(program, "v")


def _correct_twice(program: Program) -> Program:
    """Correct the averages, and the step size again."""
    m, v = correction_of(program, "m"), correction_of(program, "v")
    return program.replace(step=program["step"] / m.node * v.node**0.5)


def debias_averages(program: Program) -> Program:
    """Move the corrections into the averages, which are then unbiased if they are updated at every step."""
    uncorrected = any_of(_remove("m"), _remove("v"))(program)
    parts = dict(uncorrected.parts)
    betas = {c.beta for c in corrections(program)}
    for average in averages(program):
        if average.is_average and average.old_weight in betas:
            beta_t = average.old_weight**STEP
            hat = (beta_t - average.old_weight) / (beta_t - 1)
            parts[average.name] = hat * average.old + (1 - hat) * average.value
    return program.with_parts(parts)


def _add_correction(program: Program) -> Program:
    """Divide averages that the rule does not correct by ``1 - beta**t``."""
    betas = {c.beta for c in corrections(program)}
    corrected = {
        a.new: a.new / (1 - a.old_weight**STEP)
        for a in averages(program)
        if a.is_average and a.of_squares and a.old_weight not in betas
    }
    if any(n in corrected for n in program.nodes()):
        return program.rewrite(lambda n: corrected.get(n, n))
    step = _correct_maxima(program)
    if step is program["step"] and any(n.op == "sign" for n in walk(step)):
        step = step / (1 - settings(program)["betas.0"] ** STEP)
    return program.replace(step=step)


def _correct_maxima(program: Program) -> Node:
    step = program["step"]
    for name in program.slots:
        for node in walk(program[name]):
            if node.op == "maximum":
                beta = next((f for a in node.args for f in walk(a) if f.op == "setting" and "betas" in f.args[0]), None)
                new = next((n for n in walk(step) if n.op == "named" and n.args[0] == name), None)
                if beta is not None and new is not None:
                    step = substitute(step, new, new / (1 - beta**STEP))
    return step


def _shift_step(by: int) -> Callable[[str], Edit]:
    return _change(lambda c: substitute(c.node, STEP, STEP + by))


def _uses_step_in_power(program: Program) -> bool:
    return any(n.op == "pow" and any(contains(a, STEP) for a in n.args) for n in program.nodes())


def uses_step(program: Program) -> bool:
    """Whether the rule's numbers depend on the step number."""
    return STEP in program.nodes()


def _in_each(
    name: str, sentence: str, look_for: str, edit: Callable[[str], Edit], when: Callable[[Program], bool] | None = None
) -> Iterator[Mistake]:
    """Yield the mistake for each moment; the first three are templates of the words in ``_MOMENTS``."""
    for moment, words in _MOMENTS.items():
        named, said, sought = (text.format(**words) for text in (name, sentence, look_for))
        yield _mistake(named, said, sought, edit(moment), when=when)


MISTAKES = (
    _mistake(
        "no-bias-correction",
        "no bias correction",
        "m divided by `1 - beta1**t` and v by `1 - beta2**t`, with t = 1 at the first step: neither is there",
        all_of(_remove("m"), _remove("v")),
        when=_has_both,
    ),
    *_in_each(
        "no-{letter}-correction",
        "no bias correction of the {words}",
        "{letter} divided by `1 - {beta}**t`: it is not there",
        _remove,
    ),
    _mistake(
        "step-from-zero",
        "t off by one: the first step counts as 0",
        "`t += 1` after the update; it belongs before it, so that the first step has t = 1",
        habits=habit(offset=-1),
        when=uses_step,
    ),
    _mistake(
        "step-from-two",
        "t off by one: the first step counts as 2",
        "a step counter that starts at 1 and is raised before it is used, or is raised twice",
        habits=habit(offset=1),
        when=_uses_step_in_power,
    ),
    _mistake(
        "correction-stored",
        "the corrected averages kept as the state",
        "`m = m / (1 - beta1**t)`: give the corrected value another name, the next step needs the uncorrected one",
        lambda program: all_of(*(_store_corrected(m) for m in "mv" if _has(program, m)))(program),
    ),
    *_in_each(
        "{letter}-correction-stored",
        "the corrected {words} kept as the state",
        "`{letter} = {letter} / (1 - {beta}**t)`: give the corrected value another name",
        _store_corrected,
        when=_has_both,
    ),
    *_in_each(
        "{letter}-correction-multiplied",
        "the {words} multiplied by its correction instead of divided",
        "`{letter} * (1 - {beta}**t)`",
        _replace(lambda c, e: c.node ** (-e)),
    ),
    _mistake(
        "v-correction-not-rooted",
        "the correction of v outside the root and not rooted",
        "`sqrt(v) / (1 - beta2**t)`: correct v first, then take the root of `v_hat`",
        _replace(lambda c, e: c.node ** (2 * e))("v"),
    ),
    _mistake(
        "m-corrected-twice",
        "the average gradient corrected twice",
        "`m_hat` divided by `1 - beta1**t` again, by itself or in the step size",
        _replace(lambda c, e: c.node ** (2 * e))("m"),
    ),
    _mistake(
        "corrected-twice",
        "both corrections made twice: in the averages, and in the step size",
        "`m_hat` and `v_hat`, and `lr * sqrt(1 - beta2**t) / (1 - beta1**t)` as well: keep one of the two forms",
        _correct_twice,
    ),
    _mistake(
        "corrections-swapped",
        "the two corrections swapped: β₂ for the gradient, β₁ for the square",
        "`1 - beta2**t` under m and `1 - beta1**t` under v",
        _swap,
    ),
    *_in_each(
        "{letter}-corrected-by-{other}",
        "the {words} corrected with {wrong}",
        "`{letter} / (1 - {other}**t)`; it is {beta}",
        _use_other_beta,
    ),
    _mistake(
        "correction-per-step-only",
        "the correction of the first step at every step",
        "`1 - beta1` and `1 - beta2` without the power of t",
        any_of(*map(_correct_as_at_first, "mv")),
    ),
    *_in_each(
        "{letter}-correction-per-step-only",
        "the {words} corrected as at the first step at every step",
        "`1 - {beta}` without the power of t",
        _correct_as_at_first,
    ),
    *_in_each(
        "{letter}-corrected-by-power",
        "the {words} divided by {beta}**t instead of 1 - {beta}**t",
        "`{letter} / {beta}**t`",
        _change(lambda c: c.of),
    ),
    *_in_each(
        "{letter}-correction-times-t",
        "the {words} corrected by β times t instead of β to the power of t",
        "`1 - {beta} * t`; it is `1 - {beta}**t`",
        _change(lambda c: 1 - _beta(c) * c.of.args[1]),
    ),
    *_in_each(
        "{letter}-corrected-with-plus",
        "the {words} divided by 1 + {beta}**t",
        "`{letter} / (1 + {beta}**t)`; it is a minus",
        _change(lambda c: 1 + c.of),
    ),
    *(
        _mistake(
            f"{moment}-correction-{late}",
            f"the {words['words']} corrected one step {late}",
            f"`1 - {words['beta']}**(t {sign} 1)`",
            _shift_step(by)(moment),
            when=_has_both,
        )
        for moment, words in _MOMENTS.items()
        for late, sign, by in (("late", "-", -1), ("early", "+", 1))
    ),
    Mistake(
        "correction-added",
        "a bias correction that the rule does not have",
        "v divided by `1 - rho**t`: the rule leaves its average uncorrected",
        _add_correction,
        read="the rule's docstring in gradstep.rules",
    ),
    _mistake(
        "steps-not-counted",
        "a step count that stays at 1",
        "`t += 1`, on something that is kept until the next step",
        lambda program: program.rewrite(lambda n: ONE if n is STEP else n),
    ),
)
