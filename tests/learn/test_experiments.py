"""The experiments show what they say, and draw it."""

from xml.etree import ElementTree

import numpy as np
import pytest

from gradstep.learn.experiments import EXPERIMENTS, bias_correction, decay, memory, ravine, resume
from gradstep.learn.experiments.experiment import Walker
from gradstep.rules import RULES, Adam, AdamW
from tests.pages import check_picture


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(memory, "MATRIX_SHAPE", (32, 48))
    monkeypatch.setattr(memory, "REPEATS", 2)
    monkeypatch.setattr(decay, "WEIGHTS", 40)


@pytest.mark.parametrize("experiment", EXPERIMENTS.values(), ids=EXPERIMENTS)
def test_each_has_figures_and_a_picture(experiment, tmp_path):
    finding = experiment.run()
    assert all(line.endswith(".") and any(c.isdigit() for c in line) for line in finding.lines[:2])
    file = finding.save(tmp_path / "new" / "picture.svg")
    check_picture(ElementTree.parse(file).getroot())
    assert finding._repr_svg_() == file.read_text(encoding="utf-8")
    assert experiment.question.endswith("?")


def test_uncorrected_steps_by_hand():
    # (1 − 0.9ᵗ) / √(1 − 0.999ᵗ) along a constant gradient, the corrected ones 1.
    t = np.arange(1, bias_correction._STEPS + 1)
    lengths = bias_correction.step_lengths(bias_correction.uncorrected)
    np.testing.assert_allclose(lengths, (1 - 0.9**t) / np.sqrt(1 - 0.999**t), rtol=1e-6)
    np.testing.assert_allclose(bias_correction.step_lengths(lambda coefficients: coefficients), 1.0, rtol=1e-6)


def test_decay_of_adamw_does_not_look_at_the_gradient_and_that_of_adam_does():
    left = [
        decay._remaining_means(
            Walker(rule(lr=decay._LR, weight_decay=decay.WEIGHT_DECAY), np.ones((len(decay.SCALES), 100)))
        )
        for rule in (AdamW, Adam)
    ]
    assert np.ptp(left[0]) < 0.03
    assert left[1][0] < 0.4 < 0.99 < left[1][-1]


def test_the_state_that_the_memory_experiment_counts():
    per_weight = {name: memory._measure_cost(rule).state for name, rule in memory.MEASURED_RULES.items()}
    rows, columns = memory.MATRIX_SHAPE
    assert per_weight == {
        "SGD": 0,
        "SGD with momentum": 4,
        "RMSprop": 4,
        "Adam": 8,
        "AdamW": 8,
        "Lion": 4,
        "Adafactor": pytest.approx(4 * (rows + columns) / (rows * columns)),
    }


def test_momentum_ends_lower_in_the_ravine():
    heights = {name: float(ravine.height(path)[-1]) for name, path in ravine.walk_all().items()}
    assert heights["SGD with momentum"] < heights["SGD"] / 1000
    assert heights["Adam"] < heights["SGD"] / 1000
    assert ravine._count_crossings(np.array([1.0, -1.0, -0.5, 0.2, -0.001])) == 2


def test_a_walker_resumed_as_before_is_the_walker_that_went_on():
    saved = Walker(AdamW(lr=resume._LR, weight_decay=0.0), [3.0, -1.0])
    saved.step(np.array([1.0, 2.0]))
    on, anew = resume._resume(saved, "as before"), resume._resume(saved, "without its state")
    for walker in (saved, on, anew):
        walker.step(np.array([0.1, -0.1]))
    np.testing.assert_array_equal(on.p, saved.p)
    assert (anew.steps, on.steps) == (1, 2)
    assert vars(resume._resume(saved, "lr × 10").rule)["lr"] == pytest.approx(10 * resume._LR)


@pytest.mark.parametrize("rule", [rule for rule in RULES.values() if not rule.scalars], ids=lambda rule: rule.__name__)
def test_the_walker_walks_as_the_reference_does(rule):
    import gradstep.numpy as gn

    rng = np.random.default_rng(1)
    start, gradients = rng.normal(size=(3, 4)), rng.normal(size=(4, 3, 4))
    walker, parameter = Walker(rule(lr=0.05), start), gn.Parameter(start.copy())
    optimizer = gn.optimizer(rule)([parameter], lr=0.05, engine="reference")
    for gradient in gradients:
        walker.step(gradient)
        parameter.grad = gradient
        optimizer.step()
    np.testing.assert_allclose(walker.p, parameter.data, rtol=1e-12)
