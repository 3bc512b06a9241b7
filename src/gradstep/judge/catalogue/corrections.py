"""Bias correction: left out, doubled, turned round, at the wrong step."""

from __future__ import annotations

from collections.abc import Callable

from gradstep.judge.algebra.anatomy import (
    Average,
    Correction,
    NotFoundError,
    averages,
    correction_of,
    corrections,
    corrections_of,
    exchange,
    first,
    raised,
    second,
    settings,
)
from gradstep.judge.algebra.expression import ONE, STEP, Node, add, contains, inverse, minus, mul, number, power, walk
from gradstep.judge.algebra.expression import substitute as put
from gradstep.judge.algebra.program import Program
from gradstep.judge.catalogue.mistake import ADAM_PAPER, Mistake, both, habit, if_any
from gradstep.judge.formula import Edit

_READ = ADAM_PAPER + " and section 3"
_WORDS = {"m": ("average gradient", "m", "beta1"), "v": ("average square", "v", "beta2")}


def _each(moment: str, by: Callable[[Correction, float], Node]) -> Edit:
    return lambda program: exchange(program, moment, by)


def _missing(moment: str) -> Edit:
    return _each(moment, lambda c, e: ONE)


def _both_missing(program: Program) -> Program:
    moments = {m for m in "mv" if _has(program, m)}
    if moments != {"m", "v"}:
        raise NotFoundError("one correction only")
    return both(_missing("m"), _missing("v"))(program)


def _has(program: Program, moment: str) -> bool:
    try:
        return bool(corrections_of(program, moment))
    except NotFoundError:
        return False


def _swapped(program: Program) -> Program:
    m, v = correction_of(program, "m"), correction_of(program, "v")
    swap = {m.node: v.node, v.node: m.node}
    return program.rewriting(lambda n: swap.get(n, n), "step")


def _with_beta_of(moment: str, other: str) -> Edit:
    def edit(program: Program) -> Program:
        correction_of(program, moment)
        wrong = correction_of(program, other)
        return exchange(program, moment, lambda c, e: raised(wrong.node, e))

    return edit


def _powered(change: Callable[[Correction], Node]) -> Callable[[Correction, float], Node]:
    """A correction by a power of β, made by another formula."""

    def by(c: Correction, e: float) -> Node:
        if c.beta is None:
            raise NotFoundError("no power of beta")
        return raised(change(c), e)

    return by


def _stored(*moments: str) -> Edit:
    """The corrected average kept as the state, and used as it is."""

    def edit(program: Program) -> Program:
        stored = dict(program.parts)
        for moment in moments:
            c = correction_of(program, moment)
            for average in first(program) if moment == "m" else second(program):
                if average.kept is c.beta:
                    stored[average.name] = mul(program[average.name], inverse(c.node))
        uncorrected = both(*(_missing(moment) for moment in moments))(program)
        return uncorrected.with_parts({**stored, "step": uncorrected["step"]})

    return edit


def _all_stored(program: Program) -> Program:
    return _stored(*(m for m in "mv" if _has(program, m)))(program)


def _only_one(program: Program) -> bool:
    return _has(program, "m") and _has(program, "v")


def _twice(program: Program) -> Program:
    """Corrected averages, and the step size corrected again."""
    m, v = correction_of(program, "m"), correction_of(program, "v")
    return program.setting(step=mul(program["step"], inverse(m.node), raised(v.node, 0.5)))


def debiased(program: Program) -> Program:
    """Averages that are unbiased at every step, as long as every step is one of theirs."""
    uncorrected = if_any(_missing("m"), _missing("v"))(program)
    parts = dict(uncorrected.parts)
    for average in averages(program):
        if average.averaging and _corrected(program, average):
            before, now = power(average.kept, STEP), average.kept
            hat = mul(minus(before, now), inverse(minus(before, ONE)))
            parts[average.name] = add(mul(hat, average.old), mul(minus(ONE, hat), average.fresh))
    return program.with_parts(parts)


def _corrected(program: Program, average: Average) -> bool:
    return any(c.beta is average.kept for c in corrections(program))


def _added(program: Program) -> Program:
    """Averages that the rule leaves as they are, divided by ``1 - beta**t``."""
    known = {c.beta for c in corrections(program)}
    corrected = {
        a.new: mul(a.new, inverse(minus(ONE, power(a.kept, STEP))))
        for a in averages(program)
        if a.averaging and a.squared and a.kept not in known
    }
    corrected = {new: made for new, made in corrected.items() if _used_for_step(program, new)}
    if corrected:
        return program.rewriting(lambda n: corrected.get(n, n))
    step = _added_to_peak(program)
    if step is program["step"] and any(n.op == "sign" for n in walk(step)):
        beta = settings(program).get("betas.0")
        if beta is None:
            raise NotFoundError("no beta")
        step = mul(step, inverse(minus(ONE, power(beta, STEP))))
    return program.setting(step=step)


def _used_for_step(program: Program, new: Node) -> bool:
    """Whether it is more than what another average is made of."""
    return any(contains(e, new) for e in program.parts.values())


def _added_to_peak(program: Program) -> Node:
    step = program["step"]
    for name in program.slots:
        for node in walk(program[name]):
            if node.op == "maximum":
                beta = next((f for a in node.args for f in walk(a) if f.op == "setting" and "betas" in f.args[0]), None)
                new = next((n for n in walk(step) if n.op == "named" and n.args[0] == name), None)
                if beta is not None and new is not None:
                    step = put(step, new, mul(new, inverse(minus(ONE, power(beta, STEP)))))
    return step


def _off_by_one(moment: str, by: int) -> Edit:
    def of(c: Correction) -> Node:
        return put(c.node, STEP, minus(STEP, number(-by)))

    return _each(moment, _powered(of))


def _uses_step_in_power(program: Program) -> bool:
    return any(n.op == "pow" and any(contains(a, STEP) for a in n.args) for n in program.nodes())


def _uses_step(program: Program) -> bool:
    return any(contains(e, STEP) for e in program.parts.values())


def _for(moment: str, name: str, sentence: str, look_for: str, by: Callable[[Correction, float], Node]) -> Mistake:
    return Mistake(f"{moment}-{name}", sentence, look_for, _READ, _each(moment, by))


MISTAKES = (
    Mistake(
        "no-bias-correction",
        "no bias correction",
        "m divided by `1 - beta1**t` and v by `1 - beta2**t`, with t = 1 at the first step: neither is there",
        _READ,
        _both_missing,
    ),
    Mistake(
        "no-m-correction",
        "no bias correction of the average gradient",
        "m divided by `1 - beta1**t`: it is not there",
        _READ,
        _missing("m"),
    ),
    Mistake(
        "no-v-correction",
        "no bias correction of the average square",
        "v divided by `1 - beta2**t`: it is not there",
        _READ,
        _missing("v"),
    ),
    Mistake(
        "step-from-zero",
        "t off by one: the first step counts as 0",
        "`t += 1` after the update; it belongs before it, so that the first step has t = 1",
        _READ,
        habits=habit(offset=-1),
        when=_uses_step,
    ),
    Mistake(
        "step-from-two",
        "t off by one: the first step counts as 2",
        "a step counter that starts at 1 and is raised before it is used, or is raised twice",
        _READ,
        habits=habit(offset=1),
        when=_uses_step_in_power,
    ),
    Mistake(
        "correction-stored",
        "the corrected averages kept as the state",
        "`m = m / (1 - beta1**t)`: give the corrected value another name, the next step needs the uncorrected one",
        _READ,
        _all_stored,
    ),
    Mistake(
        "m-correction-stored",
        "the corrected average gradient kept as the state",
        "`m = m / (1 - beta1**t)`: give the corrected value another name",
        _READ,
        _stored("m"),
        when=_only_one,
    ),
    Mistake(
        "v-correction-stored",
        "the corrected average square kept as the state",
        "`v = v / (1 - beta2**t)`: give the corrected value another name",
        _READ,
        _stored("v"),
        when=_only_one,
    ),
    *(
        _for(
            moment,
            "correction-multiplied",
            f"the {words} multiplied by its correction instead of divided",
            f"`{letter} * (1 - {beta}**t)`",
            lambda c, e: raised(c.node, -e),
        )
        for moment, (words, letter, beta) in _WORDS.items()
    ),
    Mistake(
        "v-correction-not-rooted",
        "the correction of v outside the root and not rooted",
        "`sqrt(v) / (1 - beta2**t)`: correct v first, then take the root of `v_hat`",
        _READ,
        _each("v", lambda c, e: raised(c.node, 2 * e)),
    ),
    Mistake(
        "m-corrected-twice",
        "the average gradient corrected twice",
        "`m_hat` divided by `1 - beta1**t` again, by itself or in the step size",
        _READ,
        _each("m", lambda c, e: raised(c.node, 2 * e)),
    ),
    Mistake(
        "corrected-twice",
        "both corrections made twice: in the averages, and in the step size",
        "`m_hat` and `v_hat`, and `lr * sqrt(1 - beta2**t) / (1 - beta1**t)` as well: keep one of the two forms",
        _READ,
        _twice,
    ),
    Mistake(
        "corrections-swapped",
        "the two corrections swapped: β₂ for the gradient, β₁ for the square",
        "`1 - beta2**t` under m and `1 - beta1**t` under v",
        _READ,
        _swapped,
    ),
    Mistake(
        "m-corrected-by-beta2",
        "the average gradient corrected with β₂",
        "`m / (1 - beta2**t)`; it is beta1",
        _READ,
        _with_beta_of("m", "v"),
    ),
    Mistake(
        "v-corrected-by-beta1",
        "the average square corrected with β₁",
        "`v / (1 - beta1**t)`; it is beta2",
        _READ,
        _with_beta_of("v", "m"),
    ),
    Mistake(
        "correction-per-step-only",
        "the correction of the first step at every step",
        "`1 - beta1` and `1 - beta2` without the power of t",
        _READ,
        if_any(*(_each(m, _powered(lambda c: put(c.node, c.of, _base(c)))) for m in "mv")),
    ),
    *(
        _for(
            moment,
            "correction-per-step-only",
            f"the {words} corrected as at the first step at every step",
            f"`1 - {beta}` without the power of t",
            _powered(lambda c: put(c.node, c.of, _base(c))),
        )
        for moment, (words, letter, beta) in _WORDS.items()
    ),
    *(
        _for(
            moment,
            "corrected-by-power",
            f"the {words} divided by {beta}**t instead of 1 - {beta}**t",
            f"`{letter} / {beta}**t`",
            _powered(lambda c: c.of),
        )
        for moment, (words, letter, beta) in _WORDS.items()
    ),
    *(
        _for(
            moment,
            "correction-times-t",
            f"the {words} corrected by β times t instead of β to the power of t",
            f"`1 - {beta} * t`; it is `1 - {beta}**t`",
            _powered(lambda c: minus(ONE, mul(_base(c), c.of.args[1]))),
        )
        for moment, (words, letter, beta) in _WORDS.items()
    ),
    *(
        _for(
            moment,
            "corrected-with-plus",
            f"the {words} divided by 1 + {beta}**t",
            f"`{letter} / (1 + {beta}**t)`; it is a minus",
            _powered(lambda c: minus(ONE, mul(number(-1), c.of))),
        )
        for moment, (words, letter, beta) in _WORDS.items()
    ),
    *(
        Mistake(
            f"{moment}-correction-{late}",
            f"the {words} corrected one step {late}",
            f"`1 - {beta}**(t {'-' if by < 0 else '+'} 1)`",
            _READ,
            _off_by_one(moment, by),
            when=_only_one,
        )
        for moment, (words, letter, beta) in _WORDS.items()
        for late, by in (("late", -1), ("early", 1))
    ),
    Mistake(
        "correction-added",
        "a bias correction that the rule does not have",
        "v divided by `1 - rho**t`: the rule leaves its average uncorrected",
        "the rule's docstring in gradstep.rules",
        _added,
    ),
    Mistake(
        "steps-not-counted",
        "a step count that stays at 1",
        "`t += 1`, on something that is kept until the next step",
        _READ,
        lambda program: program.rewriting(lambda n: ONE if n is STEP else n),
    ),
)


def _base(c: Correction) -> Node:
    base: Node = c.of.args[0]
    return base
