"""The race: fair, complete, and whole after a loss that explodes or a Ctrl-C."""

import math
from typing import TypeVar

import pytest
import torch

from gradstep.lab.contenders import make_contender
from gradstep.lab.results import CurvePoint, RaceHeader, Record, RunSummary
from gradstep.lab.session import Race, tensor_bytes
from gradstep.lab.specs import parse_specs
from gradstep.lab.tasks import TASKS

Kind = TypeVar("Kind", RaceHeader, CurvePoint, RunSummary)


def race(task: str, optimizers: str, steps: int = 4, seeds: int = 1, **options) -> Race:
    contenders = tuple(make_contender(spec, TASKS[task]) for spec in parse_specs(optimizers))
    return Race(TASKS[task], contenders, steps, tuple(range(seeds)), "gradstep race", {}, **options)


def records_of(race: Race) -> list[Record]:
    records: list[Record] = []
    race.run(records.append)
    return records


def of_kind(kind: type[Kind], records: list[Record]) -> list[Kind]:
    return [record for record in records if isinstance(record, kind)]


def test_contenders_with_one_formula_go_one_way_whoever_runs_beside_them():
    # Dropout, batches and weights are in it: equal numbers mean an equal start and equal chance.
    records = records_of(race("digits", "torch.sgd:lr=0.1,torch.adamw,torch.sgd:lr=0.1,dampening=0", steps=20))
    points = of_kind(CurvePoint, records)
    first = [p.loss for p in points if p.contender == "torch.SGD lr=0.1"]
    same = [p.loss for p in points if p.contender == "torch.SGD lr=0.1 dampening=0"]
    other = [p.loss for p in points if p.contender == "torch.AdamW"]
    assert len(first) == 3
    assert first == same
    assert first[0] == other[0]
    assert first[1:] != other[1:]
    alone = of_kind(CurvePoint, records_of(race("digits", "torch.sgd:lr=0.1", steps=20)))
    assert [p.loss for p in alone] == first


def test_the_record_is_complete():
    records = records_of(race("ravine", "adamw,sgd", steps=3, seeds=2))
    (header,) = of_kind(RaceHeader, records)
    assert header is records[0]
    assert (header.task, header.steps, header.seeds, header.parameters) == ("ravine", 3, (0, 1), 2)
    assert [entry.label for entry in header.contenders] == ["AdamW", "SGD"]
    points = of_kind(CurvePoint, records)
    for label in ("AdamW", "SGD"):
        for seed in (0, 1):
            assert [p.step for p in points if (p.contender, p.seed) == (label, seed)] == [0, 1, 2, 3]
    summaries = of_kind(RunSummary, records)
    assert [(s.contender, s.seed) for s in summaries] == [("AdamW", 0), ("SGD", 0), ("AdamW", 1), ("SGD", 1)]
    assert all(s.status == "finished" and s.steps == 3 for s in summaries)
    adamw, sgd = summaries[:2]
    assert adamw.state_bytes >= 2 * 2 * 4
    assert sgd.state_bytes < adamw.state_bytes
    assert adamw.loss == [p.loss for p in points if p.contender == "AdamW" and p.seed == 0][-1]
    for summary in summaries:
        assert summary.first_step_seconds is not None
        assert summary.step_seconds is not None
        assert summary.optimizer_seconds is not None
        assert 0 < summary.optimizer_seconds < summary.step_seconds


def test_a_stride_that_does_not_divide_the_steps_ends_on_the_last_step():
    points = of_kind(CurvePoint, records_of(race("digits", "sgd", steps=13)))
    assert [p.step for p in points] == [0, 10, 13]


def test_the_first_step_on_the_ravine_by_hand():
    points = of_kind(CurvePoint, records_of(race("ravine", "sgd:lr=0.01", steps=1)))
    # From (-3.6, 1.1): the gradient is (-3.6, 55), so the step leads to (-3.6 + 0.036, 1.1 - 0.55).
    assert points[0].place == pytest.approx((-3.6, 1.1))
    assert points[1].place == pytest.approx((-3.564, 0.55))
    assert points[1].train_loss == pytest.approx(0.5 * (3.6**2 + 50 * 1.1**2))
    assert points[1].loss == pytest.approx(0.5 * (3.564**2 + 50 * 0.55**2))


def test_a_loss_that_explodes_stops_that_contender_and_no_other():
    records = records_of(race("rosenbrock", "sgd:lr=10,sgd:lr=1e-4", steps=30))
    wild, tame = of_kind(RunSummary, records)
    assert (wild.status, wild.loss) == ("diverged", None)
    assert wild.steps < 30
    assert (tame.status, tame.steps) == ("finished", 30)
    for point in of_kind(CurvePoint, records):
        assert point.loss is None or math.isfinite(point.loss)


def test_ctrl_c_tells_the_summaries_of_what_was_done():
    records: list[Record] = []

    def listen(record) -> None:
        records.append(record)
        if isinstance(record, CurvePoint) and record.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        race("ravine", "adamw,sgd", steps=9, seeds=3).run(listen)
    summaries = of_kind(RunSummary, records)
    assert [s.status for s in summaries] == ["interrupted", "interrupted"]
    assert sorted(s.steps for s in summaries) == [1, 2]


def test_a_race_leaves_the_random_numbers_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    records_of(race("digits", "sgd", steps=1))
    torch.testing.assert_close(torch.rand(2), expected, rtol=0, atol=0)


def test_bytes_of_tensors_are_found_wherever_they_are_kept():
    assert tensor_bytes([{"step": 3, "m": torch.zeros(5)}, (torch.zeros(3, dtype=torch.uint8), "x")]) == 23
