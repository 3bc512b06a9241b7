"""A whole session: its files, its report, and what is left after Ctrl-C."""

import io
import json
import math
import time

import numpy as np
import pytest
from rich.console import Console

from gradstep.lab.report import write_race_report
from gradstep.lab.results import RESULTS_FILE, CurvePoint, Record, read_results
from gradstep.lab.session import Race, plan, run
from gradstep.lab.standings import standings
from gradstep.lab.tasks import TASKS
from gradstep.lab.terminal import Display, closing
from gradstep.report.words import seconds
from tests.lab.silence import Silence
from tests.pages import HOSTILE, check_page, words

REAL = ("loss", "loss-over-time", "final", "time", "memory")
SURFACE = ("loss", "path", "final")


def test_a_session_writes_results_report_and_pictures(race_now):
    outcome, races = race_now(["digits", "rosenbrock"], "adamw,sgd:momentum=0.9", steps=12, seeds=2, peers=True)
    assert [race.header.task for race in races] == ["digits", "rosenbrock"]
    page = outcome.report.read_text(encoding="utf-8")
    for word in ("Handwritten digits", "SGD momentum=0.9", "torch.AdamW", "gradstep race digits rosenbrock"):
        assert word in page
    charts = check_page(page)
    assert list(charts) == [
        "Loss over steps", "Final loss, and the time of a step", "Loss over time", "Where the time of a step goes",
        "Memory the optimizer keeps", "The paths, each with its last height", "Height over steps",
        "Final height, and the time of a step",
    ]  # fmt: skip
    digits = {one.entry.label: one for one in standings(races[0])}
    for label, one in digits.items():
        told = words(charts["Final loss, and the time of a step"])
        assert f"{one.loss_text}, {seconds(one.step)} a step" in told
        assert label in told
    pictures = {path.name for path in outcome.folder.glob("*.svg")}
    assert pictures == {f"digits-{name}.svg" for name in REAL} | {f"rosenbrock-{name}.svg" for name in SURFACE}


def test_hostile_results_make_a_whole_page(race_now, tmp_path):
    outcome, _ = race_now(["ravine"], "adamw", steps=5)
    path = outcome.folder / RESULTS_FILE
    hostile = json.dumps(HOSTILE)[1:-1]
    path.write_text(
        path.read_text(encoding="utf-8").replace("AdamW", hostile).replace("CPU", hostile), encoding="utf-8"
    )
    page = write_race_report(outcome.folder).read_text(encoding="utf-8")
    check_page(page)
    assert "alert(1)</script>" not in page
    task = path.read_text(encoding="utf-8").replace('"ravine"', '"../../x"')
    path.write_text(task, encoding="utf-8")
    with pytest.raises(ValueError, match="Unknown task"):
        write_race_report(outcome.folder)


def test_a_report_is_built_again_from_the_results_the_same(race_now):
    outcome, _ = race_now(["ravine"], "adamw", steps=5)
    assert outcome.folder.name.startswith("ravine-")
    before = outcome.report.read_text(encoding="utf-8")
    outcome.report.unlink()
    assert write_race_report(outcome.folder).read_text(encoding="utf-8") == before


def test_one_diverged_contender_is_reported_last_and_the_report_stands(race_now):
    outcome, (race,) = race_now(["rosenbrock"], "sgd:lr=10,sgd:lr=1e-4", steps=20)
    table = standings(race)
    assert [one.entry.label for one in table] == ["SGD lr=0.0001", "SGD lr=10"]
    assert (table[1].diverged, table[1].loss) == (True, None)
    assert "diverged at step" in outcome.report.read_text(encoding="utf-8")


def test_a_report_stands_when_every_contender_diverged(race_now):
    outcome, _ = race_now(["rosenbrock"], "sgd:lr=1e20", steps=5)
    assert "nobody arrived" in outcome.report.read_text(encoding="utf-8")


class CtrlC(Silence):
    """Someone presses Ctrl-C when the task's second contender has taken three steps."""

    def __init__(self, task: str) -> None:
        self.task = task

    def __call__(self, record: Record) -> None:
        if isinstance(record, CurvePoint) and (record.task, record.step) == (self.task, 3):
            raise KeyboardInterrupt


@pytest.mark.parametrize(("task", "done"), [("ravine", ["finished"]), ("rosenbrock", [])])
def test_ctrl_c_keeps_what_is_done_and_reports_it(tmp_path, task, done):
    display: Display = CtrlC(task)
    outcome = run(plan(["rosenbrock", "ravine"], "adamw", steps=9, seeds=1, out=tmp_path), display)
    assert outcome.interrupted
    races = read_results(outcome.folder)
    assert [race.summaries[0].status for race in races] == [*done, "interrupted"]
    assert outcome.report is not None
    assert "interrupted at step 3" in outcome.report.read_text(encoding="utf-8")


def test_ctrl_c_before_anything_leaves_no_report(tmp_path, monkeypatch):
    def interrupted(self, listen) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Race, "run", interrupted)
    outcome = run(plan(["ravine"], "adamw", out=tmp_path), Silence())
    assert outcome.interrupted
    assert outcome.report is None


def test_sessions_of_one_second_have_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "strftime", lambda *_: "20260102-030405")
    chosen = plan(["ravine"], "sgd", steps=1, out=tmp_path)
    folders = [run(chosen, Silence()).folder.name for _ in range(2)]
    assert folders == ["ravine-20260102-030405", "ravine-20260102-030405-2"]
    assert all((tmp_path / folder / RESULTS_FILE).is_file() for folder in folders)


def test_the_command_of_a_plan_runs_the_same_plan(tmp_path):
    chosen = plan(["digits"], "adamw:betas=(0.9,0.95)", peers=True, steps=3, seeds=2, quick=True, out=tmp_path)
    assert chosen.races[0].command == (
        "gradstep race digits --optimizers 'adamw:betas=(0.9,0.95),torch.adamw:betas=(0.9,0.95)'"
        " --quick --steps 3 --seeds 2"
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"tasks": ["digit"]}, "Unknown task: 'digit'. Did you mean 'digits'?"),
        ({"optimizers": "adamv"}, "Unknown optimizer: 'adamv'"),
        ({"steps": 0}, "Invalid number of steps: 0"),
        ({"seeds": 0}, "Invalid number of seeds: 0"),
    ],
)
def test_a_plan_that_cannot_be_is_refused_before_anything_is_written(tmp_path, arguments, says):
    with pytest.raises(ValueError, match=r"Unknown|Invalid") as caught:
        plan(**arguments, out=tmp_path / "runs")
    assert says in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_a_file_is_no_folder_for_runs(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="Not a folder"):
        plan(out=tmp_path / "file")


def test_a_surface_takes_a_start_and_a_clip(race_now):
    options = {"start": "-1,1", "clip": 10.0, "steps": 2, "seeds": 1}
    outcome, (race,) = race_now(["rosenbrock"], "sgd:lr=0.001", **options)
    assert (race.header.start, race.header.clip) == ((-1.0, 1.0), 10.0)
    # By hand: at (-1, 1) the gradient is (-4, 0), within the norm of 10. At (-0.996, 1) it is, with y - x² = 0.007984,
    # (-2 · 1.996 + 400 · 0.996 · 0.007984, 200 · 0.007984) = (-0.8112, 1.5968).
    places = [point.place for point in race.points]
    np.testing.assert_allclose(places, [(-1.0, 1.0), (-0.996, 1.0), (-0.9951888, 0.9984032)], rtol=1e-6)
    page = outcome.report.read_text(encoding="utf-8")
    assert "2 steps, from (-1, 1), gradients clipped to norm 10." in page
    assert "--start=-1,1 --clip 10" in page
    # From (-1.5, 2) it is (-155, -50), of norm 162.86: clipped to (-9.517, -3.070).
    _, (race,) = race_now(["rosenbrock"], "sgd:lr=0.001", clip=10.0, steps=1, seeds=1)
    np.testing.assert_allclose(race.points[-1].place, (-1.5 + 0.009517, 2.0 + 0.003070), rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"start": "1"}, r"Invalid start: '1' \(write two numbers"),
        ({"start": "9,9"}, r"Invalid start on rosenbrock: .*x must be in \[-2, 2\]"),
        ({"start": "nan,0"}, "Invalid start"),
        ({"start": "0,0", "tasks": ["digits"]}, "name one of rosenbrock, ravine"),
        ({"clip": 0.0}, "Invalid clip"),
        ({"clip": math.inf}, "Invalid clip"),
    ],
)
def test_a_start_or_clip_that_cannot_be_is_refused(options, says):
    with pytest.raises(ValueError, match=says):
        plan(**{"tasks": ["rosenbrock"], **options})


def test_the_default_plan_is_every_task():
    assert [race.task.name for race in plan().races] == list(TASKS)
    assert {race.seeds for race in plan().races} == {(0, 1, 2)}


def test_a_quick_plan_has_fixed_steps_and_leaves_out_what_they_say_nothing_about(race_now):
    assert [race.task.name for race in plan(quick=True).races] == ["digits", "rosenbrock", "ravine"]
    _, (race,) = race_now(["ravine"], "adamw", quick=True)
    assert [(one.status, one.steps) for one in race.summaries] == [("finished", 150)] * 3


@pytest.mark.parametrize("width", [55, 60, 200])
def test_no_cell_of_the_standings_is_cut_in_a_narrow_terminal(race_now, width):
    outcome, _ = race_now(["ravine"], "adamw,sgd:momentum=0.9", steps=12, seeds=2)
    screen = io.StringIO()
    Console(width=width, file=screen).print(closing(outcome))
    shown = screen.getvalue()
    assert "…" not in shown
    assert all(len(line) <= width or "Report:" in line for line in shown.splitlines())
    assert ("Not shown here" in shown) == (width < 200)
    assert "SGD momentum=0.9  0.01" in shown
