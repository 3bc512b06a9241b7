"""Every rule on a record written by hand: it fires on the sign, says where, and is silent just inside its limit."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

import gradstep
from gradstep.monitor import Group, ParameterInfo, Run
from gradstep.monitor.doctor.rules import CAUSE_FINDERS
from tests.monitor_doctor.by_hand import BODY, HEAD, columns, header, run


def causes(record):
    return [finding.cause.name for finding in gradstep.diagnose(record).findings]


def only(record):
    (finding,) = gradstep.diagnose(record).findings
    return finding


def test_a_healthy_run():
    diagnosis = gradstep.diagnose(run())
    assert diagnosis.healthy
    assert diagnosis.exit_code == 0
    assert str(diagnosis).startswith("100 updates: nothing wrong found")


def test_nothing_is_said_about_a_record_that_has_just_begun():
    for count in (0, 1, 2, 5):
        assert gradstep.diagnose(run(count)).healthy


def test_a_record_without_any_numbers():
    assert gradstep.diagnose(Run((header(),), tuple(run(30, loss=lambda n: None).updates[:0]))).healthy


def test_lr_too_high():
    # Updates 3 to 12 are three tenths of the weights, and the loss, 4 at the start, rises to 9.
    record = run(
        update_norm=lambda n: 3.0 if 3 <= n < 13 else 0.01, loss=lambda n: 9.0 if 3 <= n < 13 else 4 - 0.03 * n
    )
    finding = only(record)
    assert finding.cause.name == "lr_too_high"
    assert finding.evidence[0].value == pytest.approx(0.3)
    assert 3 <= finding.evidence[0].updates[0] < 13


def test_large_updates_that_do_good_are_none_of_its_business():
    assert gradstep.diagnose(run(update_norm=lambda n: 3.0 if n < 10 else 0.01)).healthy


def test_a_loss_that_is_nowhere_lower_after_large_updates():
    record = run(update_norm=lambda n: 3.0 if n < 10 else 0.01, loss=lambda n: 4.0 + 0.001 * (n % 2))
    assert causes(record) == ["lr_too_high"]


def test_updates_are_not_large_because_the_weights_have_shrunk():
    # 0.5 of weights that decay has eaten, and 0.05 of those of the start.
    record = run(weight_norm=lambda n: max(1.0, 10 * 0.9**n), update_norm=lambda n: 0.5, loss=lambda n: 4.0)
    assert causes(record) == ["weights_shrinking"]


@pytest.mark.parametrize(("norm", "expected"), [(1e-5, ["lr_too_low"]), (1e-3, [])])
def test_lr_too_low(norm, expected):
    # The weights' norm is 10: ratios 1e-6 and 1e-4, the limit is 3e-5.
    assert causes(run(update_norm=lambda n: norm, loss=lambda n: 4.0 - 0.001 * n)) == expected


def test_small_updates_in_warmup_and_cosine_tail_do_not_count():
    record = run(lr=lambda n: 1e-3 if n < 10 else 1e-9 + 1e-3 * 0.8**n, update_norm=lambda n: 0.01 * 0.8**n)
    assert "lr_too_low" not in causes(record)


@pytest.mark.parametrize(("norm", "expected"), [(1000.0, ["gradients_exploding"]), (90.0, [])])
def test_gradients_exploding(norm, expected):
    assert causes(run(grad_norm=lambda n: norm if 40 <= n < 60 else 1.0)) == expected


def test_exploding_says_where_and_how_often():
    largest, often = only(run(grad_norm=lambda n: 1000.0 if 40 <= n < 60 else 1.0)).evidence
    assert largest.value == 1000
    assert often.updates == (40, 59)
    assert often.value == pytest.approx(20 / 96)  # medians of 5 in a row: 96 of 100 updates have one


def test_one_large_gradient_is_no_explosion():
    assert "gradients_exploding" not in causes(run(grad_norm=lambda n: 1000.0 if n == 50 else 1.0))


def test_gradients_vanished_in_one_layer():
    flat = {"loss": lambda n: 4.0}
    finding = only(run(columns=lambda n: columns([1e-6, 1.0]), **flat))
    assert finding.cause.name == "gradients_vanished"
    assert "body.weight" in str(finding)
    assert finding.evidence[0].value == pytest.approx(1e-6)
    assert causes(run(columns=lambda n: columns([1e-3, 1.0]), **flat)) == []
    assert causes(run(columns=lambda n: columns([1e-6, 1.0]))) == []  # the loss falls: nothing is lost


def test_gradients_vanished_everywhere():
    assert causes(run(grad_norm=lambda n: 1e-8, loss=lambda n: 4.0)) == ["gradients_vanished"]


def test_not_finite():
    record = run(loss=lambda n: math.inf if n >= 80 else 4 - 0.03 * n)
    assert causes(record) == ["not_finite"]
    (fact,) = only(record).evidence
    assert (fact.value, fact.updates) == (20, (80, 99))
    skipped = run(skipped=lambda n: "not finite" if n == 7 else "", culprit=lambda n: "head.weight" if n == 7 else None)
    assert "head.weight" in str(only(skipped))


def test_loss_scale_collapse():
    halved = run(
        30,
        head=header(precision="fp16"),
        loss_scale=lambda n: 65536.0 * 0.5 ** max(0, n - 5),
        skipped=lambda n: "a gradient is not finite" if n > 5 else "",
        culprit=lambda n: "body.weight" if n > 5 else None,
    )
    finding = only(halved)
    assert finding.cause.name == "loss_scale_collapse"
    assert [fact.value for fact in finding.evidence] == [65536 * 0.5**24, 24]
    assert finding.evidence[0].updates == (22, 29)  # 65536 = 2**16: below 1 after 17 halvings


def test_a_few_skipped_updates_of_fp16_are_healthy():
    start = run(
        100,
        loss_scale=lambda n: 65536.0 / 2 ** min(n, 3),
        skipped=lambda n: "a gradient is not finite" if n < 3 else "",
        culprit=lambda n: "body.weight" if n < 3 else None,
    )
    assert gradstep.diagnose(start).healthy


def test_a_spike_and_the_tensor_that_led_it():
    record = run(
        loss=lambda n: 8.0 if n == 60 else 4 - 0.03 * n,
        grad_norm=lambda n: 30.0 if n == 60 else 1.0,
        columns=lambda n: columns([1.0, 12.0 if n in (58, 59) else 30.0 if n == 60 else 1.0]),
    )
    finding = only(record)
    assert finding.cause.name == "spike"
    _leap, gradient, led = finding.evidence
    assert (gradient.value, gradient.updates) == (30, (60, 60))
    assert led.text.startswith("head.weight")
    assert (led.value, led.updates) == (12, (58, 58))


def test_a_single_hard_batch_without_a_gradient_is_no_spike():
    assert gradstep.diagnose(run(loss=lambda n: 8.0 if n == 60 else 4 - 0.03 * n)).healthy


@pytest.mark.parametrize(("power", "expected"), [(0.5, ["weights_growing"]), (0.15, [])])
def test_weights_growing(power, expected):
    record = run(200, weight_norm=lambda n: 1.0 + 10 * (n / 200) ** power, loss=lambda n: 4.0 if n < 20 else 2.0)
    assert causes(record) == expected


def test_weights_that_grow_while_the_loss_falls_are_learning():
    assert gradstep.diagnose(run(200, weight_norm=lambda n: 1.0 + 10 * (n / 200) ** 0.5)).healthy


@pytest.mark.parametrize(("rate", "expected"), [(0.99, ["weights_shrinking"]), (0.999, [])])
def test_weights_shrinking(rate, expected):
    assert causes(run(weight_norm=lambda n: 10.0 * rate**n)) == expected


def test_what_decay_alone_would_leave():
    # lr 1e-3 and decay 10: each update keeps 0.99, 100 of them 0.99**100 = 36.6%.
    finding = only(run(weight_norm=lambda n: 10.0 * 0.99**n, weight_decay=lambda n: 10.0))
    assert finding.evidence[-1].value == pytest.approx(0.99**100)


@pytest.mark.parametrize("rule", ["Adam", "NAdam", "RAdam", "Adamax", "RMSprop", "Adagrad", "Adadelta"])
def test_coupled_decay(rule):
    assert causes(run(head=header(optimizer=rule, rule=None, package="torch"))) == ["coupled_decay"]
    assert gradstep.diagnose(run(head=header(optimizer=rule, rule=rule, settings={"weight_decay": 0.0}))).healthy


def test_decay_of_decoupled_rules_and_of_sgd_is_meant():
    decoupled = header(optimizer="NAdam", rule="NAdam", settings={"decoupled_weight_decay": True})
    assert gradstep.diagnose(run(head=decoupled)).healthy
    assert gradstep.diagnose(run(head=header(optimizer="SGD", rule="SGD"))).healthy


def two_rules(first, second, **settings):
    """A head of an optimizer of the first rule with a group of its own and a group of the second rule."""
    one, other = (header(settings=s).groups[0].settings for s in ({}, {"rule": second, **settings}))
    return header(optimizer=first, rule=first, groups=(Group("one", one), Group("other", other)))


def test_settings_are_judged_by_the_rule_of_their_group():
    assert gradstep.diagnose(run(head=two_rules("AdamW", "Lion"))).healthy
    finding = only(run(head=two_rules("AdamW", "Adam")))
    assert finding.cause.name == "coupled_decay"
    assert [fact.text for fact in finding.evidence] == ["Adam has weight_decay=0.01 in other, added to the gradient"]


def test_no_decay():
    none = header(settings={"weight_decay": 0.0})
    finding = only(run(head=none, weight_decay=lambda n: 0.0))
    assert (finding.cause.name, finding.cause.severity.value) == ("no_decay", "hint")
    assert gradstep.diagnose(run(head=none)).healthy  # a schedule raises it


@pytest.mark.parametrize(
    ("betas", "facts"),
    [
        ((0.9, 0.999), 0),
        ((0.9, 0.95), 0),
        ((0.5, 0.999), 0),
        ((0.0, 0.9), 0),
        ((0.95, 0.98), 0),
        ((0.9, 0.8), 2),  # beta2 below 0.9, and 0.9 ≥ √0.8 = 0.894
        ((0.999, 0.9), 2),  # beta1 above 0.98, and 0.999 ≥ √0.9 = 0.949
        ((0.9, 0.99999), 1),
    ],
)
def test_betas(betas, facts):
    findings = gradstep.diagnose(run(betas=lambda n: betas)).findings
    assert sum(len(finding.evidence) for finding in findings) == facts
    assert {finding.cause.name for finding in findings} <= {"unusual_betas"}


def test_betas_of_lion_are_read_as_lions():
    lion = header(optimizer="Lion", rule="Lion")
    assert gradstep.diagnose(run(head=lion, betas=lambda n: (0.95, 0.85))).healthy


def test_not_registered():
    lost = ParameterInfo("adapter.weight", (50, 20), "float32", None)
    finding = only(run(head=header(unregistered=(lost,))))
    assert finding.cause.name == "not_registered"
    assert finding.evidence[0].value == 0.5  # 1,000 numbers beside the 1,000 that are trained
    frozen = ParameterInfo("base.weight", (50, 20), "float32", None, requires_grad=False)
    assert gradstep.diagnose(run(head=header(unregistered=(frozen,)))).healthy


def test_no_gradient():
    finding = only(run(columns=lambda n: columns([1.0])))
    assert finding.cause.name == "no_gradient"
    assert "head.weight" in str(finding)
    assert gradstep.diagnose(run(columns=lambda n: columns([1.0, 1.0] if n == 50 else [1.0]))).healthy
    frozen = ParameterInfo("head.weight", (10, 10), "float32", 0, requires_grad=False)
    assert gradstep.diagnose(run(head=header(parameters=(BODY, frozen)), columns=lambda n: columns([1.0]))).healthy


def test_no_gradient_without_numbers_of_single_parameters():
    assert only(run(elements=lambda n: 900)).evidence[0].value == 100


def test_a_gradient_that_is_nan_is_a_gradient():
    assert "no_gradient" not in causes(run(columns=lambda n: columns([1.0, math.nan])))


def test_frozen_but_decayed():
    shrinking = {"columns": lambda n: columns([1.0, 0.0], [10.0, 10.0 * 0.999**n])}
    finding = only(run(**shrinking))
    assert finding.cause.name == "frozen_but_decayed"
    assert finding.evidence[0].value == pytest.approx(0.999**99, rel=1e-5)
    assert gradstep.diagnose(run(head=header(settings={"weight_decay": 0.0}), **shrinking)).healthy
    assert gradstep.diagnose(run(columns=lambda n: columns([1.0, 0.0], [10.0, 10.0]))).healthy


@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_dead_layer(decay):
    # The body's gradient is exactly 0 from the start, and the loss goes from 4 to 3.9.
    stuck = {"loss": lambda n: 4.0 - 0.001 * n, "head": header(settings={"weight_decay": decay})}
    norms = [10.0, 10.0]
    dead = run(columns=lambda n: columns([0.0, 1.0], [10.0 * (1 - decay / 100) ** n, 10.0]), **stuck)
    assert causes(dead)[0] == "dead_layer"
    assert "body.weight" in str(gradstep.diagnose(dead).findings[0])
    # A first update with a gradient, or a loss that falls: neither is a dead layer.
    alive = run(columns=lambda n: columns([0.0 if n else 1.0, 1.0], norms), **stuck)
    assert "dead_layer" not in causes(alive)
    assert "dead_layer" not in causes(run(columns=lambda n: columns([0.0, 1.0], norms), head=stuck["head"]))


def test_a_network_that_died_of_its_learning_rate_is_neither_frozen_nor_decayed_too_much():
    # Six updates of half the weights, which grow from 10 to 60; then no gradient, and decay alone: 0.97 each.
    def norm(n):
        return 10.0 + 10.0 * n if n < 6 else 60.0 * 0.97 ** (n - 5)

    died = run(
        lr=lambda n: 1.0,
        loss=lambda n: 2.3 if n == 0 else 300.0 / n if n < 6 else 2.4,
        update_norm=lambda n: norm(n) / 2 if n < 6 else 0.01,
        weight_norm=norm,
        columns=lambda n: columns([1.0, 1.0 if n < 6 else 0.0], [10.0, norm(n)]),
    )
    assert causes(died) == ["lr_too_high"]


@pytest.mark.parametrize(("end", "expected"), [(60, ["schedule_ended_early"]), (95, [])])
def test_schedule_ended_early(end, expected):
    assert causes(run(lr=lambda n: 1e-3 * max(0.0, 1 - n / end))) == expected


def test_a_schedule_that_ended_on_its_floor():
    def floor(n):
        return 1e-3 * max(0.1, 1 - n / 60)

    finding = only(run(head=header(schedule_updates=54), lr=floor))
    assert finding.evidence[0].updates == (54, 99)  # 1 − 54/60 = 0.1
    assert gradstep.diagnose(run(lr=floor)).healthy  # nobody said that it had ended


def test_a_schedule_as_long_as_a_short_run_has_not_ended_early():
    falls = gradstep.schedules.cosine(1e-3, updates=10)
    short = run(10, head=header(schedule_updates=10), lr=falls)  # its last tenth is one update
    assert gradstep.diagnose(short).healthy


def test_schedule_too_long():
    long = header(schedule_updates=1000, planned_updates=100)
    assert causes(run(head=long)) == ["schedule_too_long"]
    assert only(run(head=long)).evidence[0].value == 10
    assert gradstep.diagnose(run(head=header(schedule_updates=105, planned_updates=100))).healthy
    assert gradstep.diagnose(run(head=header(schedule_updates=1000))).healthy


def test_lost_to_rounding():
    half = tuple(ParameterInfo(p.name, p.shape, "bfloat16", 0) for p in (BODY, HEAD))
    stuck = {"unmoved": lambda n: 900, "loss": lambda n: 4.0 - 0.001 * n}
    finding = only(run(head=header(parameters=half), **stuck))
    assert (finding.cause.name, finding.evidence[0].value) == ("lost_to_rounding", 0.9)
    assert gradstep.diagnose(run(**stuck)).healthy  # float32
    assert gradstep.diagnose(run(head=header(parameters=half), unmoved=lambda n: 900)).healthy  # the loss falls


def test_leaps_of_a_rate_that_is_too_high_are_no_spike():
    # The same leap; but updates of 0.3 of the weights go on after it, so the learning rate is named and no batch.
    def leap(after):
        return run(
            loss=lambda n: 8.0 if n >= 60 else 4 - 0.03 * n,
            grad_norm=lambda n: 30.0 if n >= 60 else 1.0,
            update_norm=lambda n: 0.01 if n < 60 or n > after else 3.0,
        )

    assert causes(leap(99)) == ["lr_too_high"]
    assert causes(leap(62))[0] == "spike"


@pytest.mark.parametrize(("share", "expected"), [(1.0, ["gradients_not_cleared"]), (0.4, []), (0.0, [])])
def test_gradients_not_cleared(share, expected):
    assert causes(run(uncleared=lambda n: n % 10 < 10 * share)) == expected


@pytest.mark.parametrize(("every", "expected"), [(1, ["stepped_twice"]), (3, [])])
def test_stepped_twice(every, expected):
    assert causes(run(other=lambda n: "" if n % every else "SGD")) == expected


def test_step_without_gradient():
    nothing = {"grad_norm": lambda n: None, "update_norm": lambda n: None, "weight_norm": lambda n: None}
    record = run(elements=lambda n: 0, loss=lambda n: 4.0, **nothing)
    assert causes(record) == ["step_without_gradient"]
    assert causes(run(grad_norm=lambda n: 0.0, loss=lambda n: 4.0))[0] == "step_without_gradient"
    late = run(elements=lambda n: 1000 if n else 0)
    assert causes(late) == ["step_without_gradient"]
    assert causes(run(elements=lambda n: 1000 if n else 0, loss=lambda n: 4.0 - 0.03 * n if n else None)) == []


@pytest.mark.parametrize(
    ("momentum", "expected"), [(0.99, []), (1.0, ["momentum_too_high"]), (1.2, ["momentum_too_high"])]
)
def test_momentum_too_high(momentum, expected):
    sgd = header(optimizer="SGD", rule="SGD")
    assert causes(run(head=sgd, betas=lambda n: None, momentum=lambda n: momentum)) == expected
    assert causes(run(betas=lambda n: (momentum, 0.999)))[:1] == (expected or ["unusual_betas"])


def test_fine_tuning_settings_are_hints_of_a_run_that_says_so():
    rates = {"lr": lambda n: 1e-2, "betas": lambda n: (0.9, 0.99)}
    finding = only(run(head=header(fine_tuning=True), **rates))
    assert (finding.cause.name, finding.cause.severity.value) == ("fine_tuning_settings", "hint")
    assert [fact.value for fact in finding.evidence] == [1e-2, 0.99]
    assert causes(run(**rates)) == []
    assert causes(run(head=header(fine_tuning=True), lr=lambda n: 2e-5)) == []


def test_every_rule_is_tested_here():
    source = Path(__file__).read_text(encoding="utf-8")
    assert [rule.cause.name for rule in CAUSE_FINDERS if f'"{rule.cause.name}"' not in source] == []


def resumed(rate, *firsts, groups=1, count=100):
    """A run that was resumed before each of these updates, with this learning rate."""
    settings = {"lr": rate(0), "weight_decay": 0.01, "betas": [0.9, 0.999]}
    heads = [header(first_update=first, started=str(first)) for first in (0, *firsts)]
    heads[1:] = [replace(h, groups=(Group("group", settings),) * groups) for h in heads[1:]]
    return Run(tuple(heads), run(count, lr=rate).updates)


def falling_rate(n):
    return 1e-3 * (1 - n / 200)


@pytest.mark.parametrize(
    ("rate", "expected"),
    [
        (falling_rate, []),
        (lambda n: falling_rate(n if n < 60 else n - 60), ["lr_jumped"]),  # the schedule began anew: 0.7e-3 to 1e-3
        (lambda n: 1e-3 if n < 60 else 1e-3 * min(1.0, (n - 59) / 20), ["lr_jumped"]),  # its warmup, too
        (lambda n: 1e-3 if n < 60 else 1e-4, []),  # a step of the schedule, or what was meant
        (lambda n: 1e-4 * 10 ** (n // 20 % 2), []),  # a schedule that leaps by itself
        (lambda n: min(1e-3, 5e-6 * (n + 1) ** 1.3), []),  # a warmup
        (lambda n: 1e-3 if n < 60 else 1.15e-3, []),  # a little
    ],
)
def test_lr_jumped(rate, expected):
    assert causes(resumed(rate, 60)) == expected
    assert causes(resumed(rate)) == [], "nothing was resumed"


def test_lr_jumped_says_when_and_what():
    jump, again = only(resumed(lambda n: falling_rate(n if n < 60 else n - 60), 60)).evidence
    assert (jump.value, jump.limit, jump.updates) == (1e-3, pytest.approx(0.705e-3), (60, 60))
    assert "once more" in str(again)


def test_two_jumps_do_not_explain_each_other():
    found = only(resumed(lambda n: 2 * falling_rate(2 * (n % 40)), 40, 80))
    assert [fact.updates[0] for fact in found.evidence if fact.updates] == [40, 80]


def test_a_group_that_was_added_is_no_resume():
    assert causes(resumed(lambda n: 1e-4 if n < 60 else 1e-3, 60, groups=2)) == []


def test_a_record_that_ends_where_it_was_resumed():
    assert causes(resumed(falling_rate, 100)) == []
