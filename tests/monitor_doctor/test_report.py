"""The order of findings, the report in words and as JSON, the readings, the command."""

import json
import re
from graphlib import TopologicalSorter

import pytest
import torch
from typer.testing import CliRunner

import gradstep
from gradstep.cli import app
from gradstep.monitor import Group, JsonLines, ParameterInfo, read_run
from gradstep.monitor.doctor.finding import Finding, grade
from gradstep.monitor.doctor.readings import rank_findings
from gradstep.monitor.doctor.rules import CAUSE_FINDERS
from gradstep.monitor.doctor.rules.gradients import spike
from gradstep.monitor.doctor.rules.learning_rate import lr_too_high
from gradstep.monitor.report import write_run_report
from tests.monitor_doctor.by_hand import header, run
from tests.pages import check_page


def test_consequences_stand_last():
    # Exchanged betas, and the runaway weights that they lead to.
    record = run(
        200,
        betas=lambda n: (0.999, 0.9),
        weight_norm=lambda n: 1.0 + 0.05 * n,
        update_norm=lambda n: 1e-4,
        loss=lambda n: 4.0 if n < 20 else 2.0,
    )
    first, second = gradstep.diagnose(record).findings
    assert (first.cause.name, first.because_of) == ("unusual_betas", ())
    assert (second.cause.name, second.because_of) == ("weights_growing", ("unusual betas",))
    assert "likely a consequence of: unusual betas" in str(second)


def test_a_consequence_stands_last_however_bad():
    symptom, cause = Finding(lr_too_high.cause, 1.0, ()), Finding(spike.cause, 0.5, ())
    assert [finding.cause.name for finding in rank_findings([symptom, cause])] == ["spike", "lr_too_high"]


def test_the_worse_stands_first():
    record = run(
        head=header(schedule_updates=1000, planned_updates=100, settings={"weight_decay": 0.0}),
        grad_norm=lambda n: 1000.0,
        weight_decay=lambda n: 0.0,
    )
    severities = [finding.cause.severity.value for finding in gradstep.diagnose(record).findings]
    assert severities == ["critical", "warning", "hint"]


def test_causes_explain_causes_that_there_are_and_form_no_circle():
    causes = {rule.cause.name: rule.cause.explains for rule in CAUSE_FINDERS}
    assert list(causes) == [rule.find.__name__ for rule in CAUSE_FINDERS]
    for explains in causes.values():
        assert explains <= causes.keys()
    tuple(TopologicalSorter(causes).static_order())  # raises CycleError


def test_every_cause_spoils_quantities_that_have_a_reading():
    quantities = {reading.quantity for reading in gradstep.diagnose(run()).readings}
    for rule in CAUSE_FINDERS:
        assert rule.cause.spoils <= quantities


def diverging(n):
    return 3.0 ** min(n, 300)


def test_a_reading_calls_nothing_good_that_a_finding_spoils():
    # The gradient's and the update's medians lie in their usual ranges, and the run has diverged all the same.
    record = run(
        update_norm=lambda n: 8.0 if 20 <= n < 30 else 0.01,
        loss=lambda n: 0.5 + diverging(n - 20) if n >= 20 else 4 - 0.1 * n,
        weight_norm=lambda n: 10.0 + n,
    )
    diagnosis = gradstep.diagnose(record)
    meanings = {reading.quantity: reading.meaning for reading in diagnosis.readings}
    assert diagnosis.findings[0].cause.name == "lr_too_high"
    for quantity in ("gradient norm", "weight norm", "update over weights"):
        assert meanings[quantity] == "see: learning rate too high"
    assert meanings["loss"].startswith("exploding")
    assert not [word for word in ("healthy", "as it should") if word in str(diagnosis)]


def test_numbers_of_a_run_that_diverged_can_be_read():
    record = run(update_norm=lambda n: 8.0, loss=lambda n: 1e13 if n > 50 else 4.0)
    text = str(gradstep.diagnose(record).findings[0])
    assert "the loss rose by" in text
    assert max(map(len, re.findall(r"[0-9]+", text))) <= 4


@pytest.mark.parametrize("size", [1e-320, 1e-30, 1e30, 1e160, 1.7e308])
def test_extreme_numbers_give_no_warning(size):
    for name in ("loss", "grad_norm", "weight_norm", "update_norm"):
        for value in (lambda n: size, lambda n: size if n % 2 else 1.0, lambda n: size if n == 50 else 1.0):
            str(gradstep.diagnose(run(**{name: value})))


@pytest.mark.parametrize(("value", "score"), [(3e-5, 0.5), (3e-6, 0.75), (3e-7, 1.0), (1e-9, 1.0), (0.0, 1.0)])
def test_a_score_is_logarithmic(value, score):
    assert grade(value, limit=3e-5, certain=3e-7) == pytest.approx(score)


def test_readings_say_what_each_quantity_means():
    def meanings(record):
        return {reading.quantity: reading.meaning for reading in gradstep.diagnose(record).readings}

    healthy = meanings(run())
    assert healthy["learning rate"] == "constant"
    assert healthy["loss"] == "falling"
    assert healthy["gradient norm"].startswith("usual")
    assert healthy["weight norm"] == "steady"
    assert healthy["update over weights"].startswith("usual")
    assert meanings(run(loss=lambda n: 4.0))["loss"].startswith("flat")
    assert meanings(run(loss=lambda n: 4 - 0.03 * n + 2 * (n % 2)))["loss"].startswith("falling, but jagged")
    assert meanings(run(loss=lambda n: 4 - 0.03 * n if n < 80 else 20.0))["loss"].startswith("exploding")
    assert meanings(run(grad_norm=lambda n: 200.0))["gradient norm"].startswith("alarming")
    assert meanings(run(grad_norm=lambda n: 20.0))["gradient norm"].startswith("high")
    assert meanings(run(grad_norm=lambda n: 0.01))["gradient norm"].startswith("low")
    assert meanings(run(weight_norm=lambda n: 10.0 + n))["weight norm"].startswith("growing")
    assert meanings(run(weight_norm=lambda n: 10 - 0.05 * n))["weight norm"].startswith("shrinking")
    assert meanings(run(update_norm=lambda n: 5.0))["update over weights"].startswith("far too large")
    assert meanings(run(update_norm=lambda n: 1e-5))["update over weights"].startswith("very small")
    assert "highest at update 99" in meanings(run(lr=lambda n: 1e-5 * n))["learning rate"]


def written(record, folder):
    sink = JsonLines(folder)
    sink.open(record.header)
    for update in record.updates:
        sink.write(update)
    sink.close()
    return folder


def command(*arguments):
    return CliRunner().invoke(app, ["doctor", *map(str, arguments)])


def test_the_command(tmp_path):
    sick = written(run(grad_norm=lambda n: 1000.0), tmp_path / "sick")
    healthy = written(run(), tmp_path / "healthy")
    told = command(sick)
    assert told.exit_code == 1
    for word in ("gradients exploding", "critical", "remedy", "max_grad_norm", "updates 2 to 97"):
        assert word in told.output
    assert command(healthy).exit_code == 0
    assert "nothing wrong found" in command(healthy).output


def test_the_command_as_json(tmp_path):
    told = command(written(run(grad_norm=lambda n: 1000.0), tmp_path / "sick"), "--json")
    plain = json.loads(told.output)
    assert told.exit_code == 1
    assert plain["healthy"] is False
    (finding,) = plain["findings"]
    assert finding["cause"] == "gradients_exploding"
    assert finding["evidence"][0]["value"] == 1000
    assert plain["readings"][0]["quantity"] == "learning rate"


def test_json_is_strict_also_where_numbers_are_not(tmp_path):
    told = command(written(run(weight_norm=lambda n: 0.0), tmp_path / "run"), "--json")
    json.loads(told.output, parse_constant=pytest.fail)


@pytest.mark.parametrize("content", [None, "", "no record\n", '{"gradstep_monitor":99,"groups":[]}\n'])
def test_what_cannot_be_read(tmp_path, content):
    path = tmp_path / "run.jsonl"
    if content is not None:
        path.write_text(content)
    told = command(path)
    assert told.exit_code == 2
    assert "Cannot read" in told.output


HEAD = (
    '{"gradstep_monitor":1,"optimizer":"SGD","package":"torch","rule":null,"groups":[{"name":"all"}],"parameters":[%s]}'
)
WEIGHT = '{"name":"w","shape":[2],"dtype":"float32","group":0}'


@pytest.mark.parametrize(
    "line",
    [
        "[" * 100_000,
        '{"a":' * 100_000,
        "[]",
        '"text"',
        "7",
        "null",
        '{"update":0}',
        '{"update":"zero","time":0}',
        '{"update":0,"time":0,"loss":[1,2,3]}',
        '{"update":0,"time":0,"loss":{"a":1}}',
        '{"update":0,"time":0,"loss":"<script>"}',
        '{"update":0,"time":0,"groups":[{"lr":{"a":1}}]}',
        '{"update":0,"time":0,"groups":7}',
        '{"update":0,"time":0,"skipped":["x"]}',
        '{"update":0,"time":0,"parameters":{"index":"AQAAAA=="}}',  # parameter 1 of 1
        '{"update":0,"time":0,"parameters":{"index":"AAAAAA==","grad_norm":"AAAAAAAAAAA="}}',
        '{"update":0,"time":0,"parameters":{"index":"A"}}',
        HEAD % '{"name":7,"shape":[2],"dtype":"float32","group":0}',
        HEAD % '{"name":"w","shape":["2"],"dtype":"float32","group":0}',
        HEAD % '{"name":"w","shape":7,"dtype":"float32","group":0}',
    ],
    ids=str,
)
def test_a_hostile_record_is_refused_in_words(line, tmp_path):
    path = tmp_path / "run.jsonl"
    path.write_text(HEAD % WEIGHT + "\n" + line + "\n")
    told = command(path)
    assert told.exit_code == 2
    assert "Cannot read" in told.output
    assert "line 2" in told.output


HOSTILE = "<!--<script>alert(1)</script>\x1b[31m../../x"


def test_hostile_names_break_neither_page_nor_terminal(tmp_path):
    lost = ParameterInfo(HOSTILE, (3,), "float32", None)
    groups = tuple(Group(name, {"lr": 1e-3, HOSTILE: HOSTILE}) for name in (HOSTILE, "b"))
    record = run(50, head=header(optimizer=HOSTILE, groups=groups, unregistered=(lost,)))
    folder = written(record, tmp_path / "run")
    told = command(folder)
    assert told.exit_code == 1
    assert "\x1b[31m" not in told.output
    page = write_run_report(read_run(folder), tmp_path / "page.html").read_text(encoding="utf-8")
    check_page(page)
    assert "alert(1)</script>" not in page
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.html", "run"]


@pytest.mark.parametrize("name", ["../../x", "/x", "a/../../x"])
def test_a_run_does_not_leave_its_folder(name):
    with pytest.raises(ValueError, match="Invalid name"):
        gradstep.Monitor(torch.optim.SGD([torch.ones(1, requires_grad=True)]), name=name)
