"""Bias correction: missing, made twice, inverted, at the wrong step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from gradstep.judge.algebra.anatomy import (
    Average,
    Correction,
    NotFoundError,
    Replacement,
    averages,
    correction_of,
    corrections,
    corrections_of,
    first_moments,
    replace_corrections,
    second_moments,
    settings,
)
from gradstep.judge.algebra.expression import ONE, STEP, Node, contains, substitute, walk
from gradstep.judge.algebra.program import Program
from gradstep.judge.catalogue.mistake import ADAM_PAPER, Mistake, all_of, any_of, habit
from gradstep.judge.formula import Edit

_mistake = partial(Mistake, read=ADAM_PAPER + " and section 3")
_MOMENTS = {
    "m": {"words": "average gradient", "letter": "m", "beta": "beta1"},
    "v": {"words": "average square", "letter": "v", "beta": "beta2"},
}


def _replace(moment: str, by: Replacement) -> Edit:
    return lambda program: replace_corrections(program, moment, by)


def _remove(moment: str) -> Edit:
    return _replace(moment, lambda c, e: ONE)


def _remove_both(program: Program) -> Program:
    if not _has_both(program):
        raise NotFoundError("one correction only")
    return all_of(_remove("m"), _remove("v"))(program)


def _has(program: Program, moment: str) -> bool:
    try:
        return bool(corrections_of(program, moment))
    except NotFoundError:
        return False


def _swap(program: Program) -> Program:
    m, v = correction_of(program, "m"), correction_of(program, "v")
    swap = {m.node: v.node, v.node: m.node}
    return program.rewrite(lambda n: swap.get(n, n), "step")


def _use_beta_of(moment: str, other: str) -> Edit:
    def edit(program: Program) -> Program:
        correction_of(program, moment)
        wrong = correction_of(program, other)
        return replace_corrections(program, moment, lambda c, e: wrong.node**e)

    return edit


def _by_formula(change: Callable[[Correction], Node]) -> Replacement:
    """Replace a correction by a power of β by ``change`` of it."""

    def by(c: Correction, e: float) -> Node:
        if c.beta is None:
            raise NotFoundError("no power of beta")
        return change(c) ** e

    return by


def _beta(c: Correction) -> Node:
    beta: Node = c.of.args[0]
    return beta


def _store_corrected(*moments: str) -> Edit:
    """Keep the corrected averages as the state, and use them as they are."""

    def edit(program: Program) -> Program:
        stored = dict(program.parts)
        for moment in moments:
            c = correction_of(program, moment)
            for average in first_moments(program) if moment == "m" else second_moments(program):
                if average.old_weight is c.beta:
                    stored[average.name] = program[average.name] / c.node
        uncorrected = all_of(*(_remove(moment) for moment in moments))(program)
        return uncorrected.with_parts({**stored, "step": uncorrected["step"]})

    return edit


def _store_all_corrected(program: Program) -> Program:
    return _store_corrected(*(m for m in "mv" if _has(program, m)))(program)


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
    for average in averages(program):
        if average.is_average and _is_corrected(program, average):
            beta_t = average.old_weight**STEP
            hat = (beta_t - average.old_weight) / (beta_t - 1)
            parts[average.name] = hat * average.old + (1 - hat) * average.value
    return program.with_parts(parts)


def _is_corrected(program: Program, average: Average) -> bool:
    return any(c.beta is average.old_weight for c in corrections(program))


def _add_correction(program: Program) -> Program:
    """Divide averages that the rule does not correct by ``1 - beta**t``."""
    betas = {c.beta for c in corrections(program)}
    corrected = {
        a.new: a.new / (1 - a.old_weight**STEP)
        for a in averages(program)
        if a.is_average and a.of_squares and a.old_weight not in betas
    }
    corrected = {new: value for new, value in corrected.items() if _is_used(program, new)}
    if corrected:
        return program.rewrite(lambda n: corrected.get(n, n))
    step = _correct_maxima(program)
    if step is program["step"] and any(n.op == "sign" for n in walk(step)):
        beta = settings(program).get("betas.0")
        if beta is None:
            raise NotFoundError("no beta")
        step = step / (1 - beta**STEP)
    return program.replace(step=step)


def _is_used(program: Program, new: Node) -> bool:
    return any(contains(e, new) for e in program.parts.values())


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


def _shift_step(moment: str, by: int) -> Edit:
    return _replace(moment, _by_formula(lambda c: substitute(c.node, STEP, STEP + by)))


def _uses_step_in_power(program: Program) -> bool:
    return any(n.op == "pow" and any(contains(a, STEP) for a in n.args) for n in program.nodes())


def uses_step(program: Program) -> bool:
    """Whether the rule's numbers depend on the step number."""
    return any(contains(e, STEP) for e in program.parts.values())


def _in_each(name: str, sentence: str, look_for: str, by: Replacement) -> Iterator[Mistake]:
    """Yield the mistake for each moment; ``sentence`` and ``look_for`` are templates of the names in ``_MOMENTS``."""
    for moment, names in _MOMENTS.items():
        edit = _replace(moment, by)
        yield _mistake(f"{moment}-{name}", sentence.format(**names), look_for.format(**names), edit)


MISTAKES = (
    _mistake(
        "no-bias-correction",
        "no bias correction",
        "m divided by `1 - beta1**t` and v by `1 - beta2**t`, with t = 1 at the first step: neither is there",
        _remove_both,
    ),
    _mistake(
        "no-m-correction",
        "no bias correction of the average gradient",
        "m divided by `1 - beta1**t`: it is not there",
        _remove("m"),
    ),
    _mistake(
        "no-v-correction",
        "no bias correction of the average square",
        "v divided by `1 - beta2**t`: it is not there",
        _remove("v"),
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
        _store_all_corrected,
    ),
    _mistake(
        "m-correction-stored",
        "the corrected average gradient kept as the state",
        "`m = m / (1 - beta1**t)`: give the corrected value another name",
        _store_corrected("m"),
        when=_has_both,
    ),
    _mistake(
        "v-correction-stored",
        "the corrected average square kept as the state",
        "`v = v / (1 - beta2**t)`: give the corrected value another name",
        _store_corrected("v"),
        when=_has_both,
    ),
    *_in_each(
        "correction-multiplied",
        "the {words} multiplied by its correction instead of divided",
        "`{letter} * (1 - {beta}**t)`",
        lambda c, e: c.node ** (-e),
    ),
    _mistake(
        "v-correction-not-rooted",
        "the correction of v outside the root and not rooted",
        "`sqrt(v) / (1 - beta2**t)`: correct v first, then take the root of `v_hat`",
        _replace("v", lambda c, e: c.node ** (2 * e)),
    ),
    _mistake(
        "m-corrected-twice",
        "the average gradient corrected twice",
        "`m_hat` divided by `1 - beta1**t` again, by itself or in the step size",
        _replace("m", lambda c, e: c.node ** (2 * e)),
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
    _mistake(
        "m-corrected-by-beta2",
        "the average gradient corrected with β₂",
        "`m / (1 - beta2**t)`; it is beta1",
        _use_beta_of("m", "v"),
    ),
    _mistake(
        "v-corrected-by-beta1",
        "the average square corrected with β₁",
        "`v / (1 - beta1**t)`; it is beta2",
        _use_beta_of("v", "m"),
    ),
    _mistake(
        "correction-per-step-only",
        "the correction of the first step at every step",
        "`1 - beta1` and `1 - beta2` without the power of t",
        any_of(*(_replace(m, _by_formula(lambda c: substitute(c.node, c.of, _beta(c)))) for m in "mv")),
    ),
    *_in_each(
        "correction-per-step-only",
        "the {words} corrected as at the first step at every step",
        "`1 - {beta}` without the power of t",
        _by_formula(lambda c: substitute(c.node, c.of, _beta(c))),
    ),
    *_in_each(
        "corrected-by-power",
        "the {words} divided by {beta}**t instead of 1 - {beta}**t",
        "`{letter} / {beta}**t`",
        _by_formula(lambda c: c.of),
    ),
    *_in_each(
        "correction-times-t",
        "the {words} corrected by β times t instead of β to the power of t",
        "`1 - {beta} * t`; it is `1 - {beta}**t`",
        _by_formula(lambda c: 1 - _beta(c) * c.of.args[1]),
    ),
    *_in_each(
        "corrected-with-plus",
        "the {words} divided by 1 + {beta}**t",
        "`{letter} / (1 + {beta}**t)`; it is a minus",
        _by_formula(lambda c: 1 + c.of),
    ),
    *(
        _mistake(
            f"{moment}-correction-{late}",
            f"the {names['words']} corrected one step {late}",
            f"`1 - {names['beta']}**(t {'-' if by < 0 else '+'} 1)`",
            _shift_step(moment, by),
            when=_has_both,
        )
        for moment, names in _MOMENTS.items()
        for late, by in (("late", -1), ("early", 1))
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
