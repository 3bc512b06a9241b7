"""Every challenge: its solution passes, its skeleton waits, and typical wrong solutions are caught and explained."""

import linecache
import types

import pytest

from gradstep.learn import check
from gradstep.learn.checking import CHALLENGES, challenge_named, is_unfinished
from gradstep.learn.course import split_diagnosis
from gradstep.learn.lesson import FRAMEWORKS
from tests.learn.wrong import WRONG

EVERY = [(name, framework) for name in CHALLENGES for framework in FRAMEWORKS]


def loaded(name, source):
    module = types.ModuleType("learner")
    filename = f"<{name}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    exec(compile(source, filename, "exec"), vars(module))
    return vars(module)[CHALLENGES[name].entry]


@pytest.mark.parametrize(("name", "framework"), EVERY)
def test_the_solution_passes(name, framework):
    verdict = check(name, loaded(name, CHALLENGES[name].lesson.code[framework].solution), framework)
    assert verdict.passed, str(verdict)
    assert all(probe.outcome.value != "advice" for probe in verdict.probes), str(verdict)


@pytest.mark.parametrize(("name", "framework"), EVERY)
def test_the_skeleton_is_known_as_such_and_does_not_give_the_solution_away(name, framework):
    code = CHALLENGES[name].lesson.code[framework]
    verdict = check(name, loaded(name, code.skeleton), framework)
    assert not verdict.passed
    assert is_unfinished(verdict)
    assert "SOLUTION" not in code.skeleton + code.solution
    lost = [line for line in code.solution.splitlines() if line.strip() not in code.skeleton]
    assert lost
    assert max(map(len, code.skeleton.splitlines())) <= 120


def slow_where_torch_runs(wrong):
    marks = [pytest.mark.slow] if wrong.framework == "torch" and CHALLENGES[wrong.challenge].rule else []
    return pytest.param(wrong, marks=marks, id=f"{wrong.challenge}-{wrong.framework}-{wrong.told.replace(' ', '_')}")


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")  # what one of them does wrong
@pytest.mark.parametrize("wrong", [slow_where_torch_runs(wrong) for wrong in WRONG])
def test_a_wrong_solution_is_caught_and_its_mistake_is_told(wrong):
    verdict = check(wrong.challenge, loaded(wrong.challenge, wrong.source), wrong.framework)
    assert not verdict.passed
    assert not is_unfinished(verdict)
    pieces = split_diagnosis(verdict)
    assert any(wrong.told in piece for piece in pieces), pieces


@pytest.mark.parametrize("name", CHALLENGES)
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_there_are_three_wrong_solutions_of_each(name, framework):
    assert sum((wrong.challenge, wrong.framework) == (name, framework) for wrong in WRONG) >= 3


def test_a_submission_without_what_the_challenge_is_about_has_not_passed_it():
    plain = loaded("sgd", CHALLENGES["sgd"].lesson.code["numpy"].solution)
    assert check("sgd", plain).passed
    verdict = check("momentum", plain)
    assert not verdict.passed
    assert split_diagnosis(verdict) == (
        "It is right as far as it goes, but takes no momentum and no nesterov, which this challenge is about.",
    )


def test_decay_after_the_update_is_a_convention_by_name():
    source = CHALLENGES["adamw"].lesson.code["numpy"].solution
    decay = "            p.data *= 1 - self.lr * self.weight_decay\n"
    assert source.count(decay) == 1
    after = loaded("adamw", source.replace(decay, "") + decay)
    told = split_diagnosis(check("adamw", after))
    assert "the decay after the update" in told[0]
    assert "--convention tinytorch" in told[0]
    assert check("adamw", after, convention="tinytorch").passed


@pytest.mark.parametrize(
    ("name", "framework", "function"),
    [
        ("schedule", "numpy", lambda update, peak, warmup, total, floor=0.0: float("nan")),
        ("schedule", "torch", lambda optimizer, warmup, total, floor=0.0: None),
        ("clipping", "numpy", lambda params, max_norm: float("nan")),
        ("clipping", "torch", lambda params, max_norm: None),
        ("clipping", "numpy", lambda params: 1.0),
    ],
)
def test_nonsense_fails_with_words(name, framework, function):
    verdict = check(name, function, framework)
    assert not verdict.passed
    assert all(probe.detail for probe in verdict.failed())


def test_clipping_as_torch_does_it_is_right():
    torch = pytest.importorskip("torch")
    verdict = check("clipping", torch.nn.utils.clip_grad_norm_, "torch")
    # Its factor and its norm are float32's, where 1e38 has no square.
    assert [probe.name for probe in verdict.failed()] in ([], ["huge"])


def test_a_name_that_is_none_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match="Did you mean 'momentum'"):
        challenge_named("momentun")
