"""Every argument that is a precision takes torch's name and the short one; every `paged` takes the same values."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import gradstep
from gradstep.cli import app
from gradstep.lab.contenders import make_contender
from gradstep.lab.specs import parse_specs
from gradstep.lab.tasks import TASKS
from gradstep.monitor import Sink

SHORT = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}


def layer():
    return torch.nn.Linear(64, 64)


def state_in(optimizer):
    return optimizer.state_summary().rows[0].state


def by_argument(state):
    return state_in(gradstep.AdamW(layer().parameters(), state=state))


def by_group(state):
    return state_in(gradstep.AdamW([{"params": list(layer().parameters()), "state": state}]))


def by_class(state):
    kind = gradstep.optimizer(gradstep.rules.AdamW, state=state)
    return kind, state_in(kind(layer().parameters()))


def by_name(state):
    return state_in(gradstep.create("adamw", layer().parameters(), state=state))


def by_race(state):
    contender = make_contender(parse_specs(f"adamw:state={state}")[0], TASKS["digits"])
    return state_in(contender.optimizer(layer()))


def by_conversion(state):
    old = torch.optim.AdamW(layer().parameters())
    for p in old.param_groups[0]["params"]:
        p.grad = torch.ones_like(p)
    old.step()
    converted = gradstep.convert_state(old.state_dict(), state, rule="AdamW")
    return converted.state_dict["state"][0]["exp_avg"].dtype


def by_plan(state):
    return gradstep.plan("1B", state=state), gradstep.plan("1B", state=state).code


def by_plans(state):
    return gradstep.plans("1B", budget="24GB", state=state)


def by_command(state):
    shown = CliRunner().invoke(app, ["plan", "1B", "--budget", "24GB", "--state", state, "--json"])
    assert shown.exit_code == 0, shown.output
    return json.loads(shown.output)["plans"]


STATES = (
    by_argument,
    by_group,
    by_class,
    by_name,
    by_race,
    by_conversion,
    by_plan,
    by_plans,
    by_command,
)


@pytest.mark.parametrize("ask", STATES)
def test_state_takes_both_names(ask):
    assert ask("bf16") == ask("bfloat16") != ask("float32") == ask("fp32")


def by_weights(precision):
    return gradstep.plan("1B", params=precision)


def by_gradients(precision):
    return gradstep.plan("1B", gradients=precision)


def by_weights_of_all(precision):
    return gradstep.plans("1B", budget="24GB", params=precision)


def by_stepper(precision):
    model = layer()
    return gradstep.Stepper(model, gradstep.AdamW(model.parameters()), precision=precision).precision


def by_weights_command(precision):
    shown = CliRunner().invoke(app, ["plan", "1B", "--budget", "24GB", "--params", precision, "--json"])
    assert shown.exit_code == 0, shown.output
    return json.loads(shown.output)["plans"]


@pytest.mark.parametrize("ask", [by_weights, by_gradients, by_weights_of_all, by_stepper, by_weights_command])
def test_other_precisions_take_both_names(ask):
    results = {name: ask(name) for name in SHORT}
    assert {name: ask(short) for name, short in SHORT.items()} == results
    assert len({str(result) for result in results.values()}) > 1, "the argument does nothing"


def test_a_monitor_records_the_documented_name():
    model = layer()
    heads = []

    class Heads(Sink):
        def open(self, header):
            heads.append(header.precision)

        def write(self, update):
            pass

        def close(self):
            pass

    for precision in ("bf16", "bfloat16", "16-mixed", None):
        optimizer = gradstep.AdamW(model.parameters())
        with gradstep.Monitor(optimizer, sinks=[Heads()], precision=precision) as monitor:
            model(torch.ones(1, 64)).sum().backward()
            optimizer.step()
            monitor.log(loss=1.0)
    assert heads == ["bfloat16", "bfloat16", "16-mixed", None]


@pytest.mark.parametrize("ask", [by_argument, by_group, by_class, by_name, by_conversion, by_plan, by_plans])
@pytest.mark.parametrize("wrong", ["fp16", "int8", "bfloat", 8])
def test_an_error_lists_the_documented_names(ask, wrong):
    with pytest.raises(ValueError, match=rf"Invalid \w+: {wrong!r} \(choose 'float32', 'bfloat16', '8bit'"):
        ask(wrong)


def paged_argument(paged):
    return gradstep.AdamW(layer().parameters(), paged=paged)._paged


def paged_class(paged):
    return gradstep.optimizer(gradstep.rules.AdamW, paged=paged)(layer().parameters())._paged


def paged_name(paged):
    return gradstep.create("adamw", layer().parameters(), paged=paged)._paged


def paged_plan(paged):
    return gradstep.plan("1B", paged=paged).choice.paged or None


def paged_plans(paged):
    return {p.choice.paged for p in gradstep.plans("1B", budget="24GB", paged=paged).plans} - {False} or None


PAGED = (paged_argument, paged_class, paged_name, paged_plan, paged_plans)


@pytest.mark.parametrize("ask", PAGED)
def test_paged_takes_the_same_values(ask, tmp_path):
    assert ask(False) is None
    folders = [tmp_path / name for name in "abc"]
    for paged in (True, str(folders[0]), folders[1], gradstep.Pages(folders[2])):
        assert ask(paged) is not None
    with pytest.raises(TypeError, match=r"paged must be True, False, a folder or gradstep.Pages, but is 1"):
        ask(1)
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="state is paged to a folder"):
        ask(tmp_path / "file")


def test_a_plan_for_a_folder_sets_up_that_folder(tmp_path):
    folder: Any = str(tmp_path / 'with "quotes"')
    budget: Any = "1MB"
    model = torch.nn.Linear(64, 64)
    plan = gradstep.plan(model, paged=folder, page_budget=budget)
    names: dict[str, Any] = {"gradstep": gradstep, "model": model}
    exec(plan.code, names)
    assert names["optimizer"]._paged.pages == gradstep.Pages(Path(folder), 10**6)
    assert gradstep.plan(model, paged=gradstep.Pages(folder, budget)) == plan
    with pytest.raises(ValueError, match="with GPUs give paged=True"):
        gradstep.plan(model, paged=folder, gpus=1)
