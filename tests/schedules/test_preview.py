"""What preview() and plot() show."""

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from gradstep.cli import app
from gradstep.schedules import constant, cosine, multi_step, warmup
from gradstep.schedules.gallery import CYCLES, GALLERY_NAMES, gallery
from tests.pages import check_page
from tests.pages import words as told
from tests.schedules.every import EVERY

WARM = warmup(updates=100, to=1.0).then(cosine(1.0, updates=900))


def test_the_table():
    assert str(warmup(updates=4, to=1.0).then(constant(0.5, updates=8)).preview()).splitlines() == [
        "update  value",
        "     0      0  first",
        "     3   0.75  before the boundary, peak",
        "     4    0.5  boundary",
        "     5    0.5  after the boundary",
        "    11    0.5  last",
        "    12    0.5  held from here on",
    ]


def test_the_rows_are_those_of_the_schedule():
    rows = WARM.preview().rows
    assert [row.update for row in rows] == [0, 99, 100, 101, 999, 1000]
    assert [row.value for row in rows] == [WARM(row.update) for row in rows]
    assert "peak" in rows[2].why


def test_every_boundary_has_its_neighbours():
    rows = multi_step(1.0, at_updates=[3, 4, 50]).preview(updates=51).rows
    assert [row.update for row in rows] == [0, 2, 3, 4, 5, 49, 50]


@pytest.mark.parametrize("schedule", EVERY.values(), ids=EVERY)
def test_every_schedule_can_be_looked_at(schedule):
    assert len(str(schedule.preview()).splitlines()) >= 2
    (line,) = schedule.plot().lines
    drawn = dict(zip(line.x, line.y))
    assert drawn == {update: schedule(update) for update in drawn}
    total = schedule.updates or 1000
    assert {0, total - 1, *schedule.boundaries(total)} <= set(drawn)


def test_a_plot_of_a_million_updates_has_no_million_points():
    chart = cosine(1.0, updates=10**6).plot()
    assert len(chart.lines[0].x) < 3000
    assert len(chart.file()) < 30_000


def test_schedules_need_no_torch():
    code = (
        "import sys; from gradstep.schedules import cosine; cosine(1.0, updates=9).preview();"
        "print([m for m in ('torch', 'gradstep.report') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("warm", [None, 0, 50])
def test_the_gallery_is_every_kind_over_the_steps(warm):
    shown = gallery(steps=400, warm=warm)
    assert tuple(shown) == GALLERY_NAMES
    for name, schedule in shown.items():
        values = [schedule(update) for update in range(400)]
        # exp-range has its first peak after an eighth of its decay to a tenth: 0.1 + 0.9 · 0.1^(1/8).
        peak = {"one-cycle-momentum": 0.95, "exp-range": 0.1 + 0.9 * 0.1**0.125}.get(name, 1.0)
        assert max(values) == pytest.approx(peak, rel=0.01), name
        warms = name == "wsd" or name.startswith("warmup-") if warm is None else warm and name not in CYCLES
        assert (values[0] == 0.0) == bool(warms or (name == "wsd" and warm)), name


def test_the_gallery_by_hand():
    shown = gallery(["cosine", "warmup-linear"], steps=1000, warm=200, lr=2.0)
    assert shown["cosine"](100) == pytest.approx(1.0)  # half way up
    assert shown["cosine"](600) == pytest.approx(1.0)  # half way down
    assert shown["warmup-linear"](600) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"names": ["cosin"]}, "Did you mean 'cosine'"),
        ({"steps": 3}, "steps"),
        ({"warm": 1000}, "must be below the 1000 steps"),
        ({"warm": -1}, "warmup"),
    ],
)
def test_what_the_gallery_refuses(words, says):
    with pytest.raises(ValueError, match=says):
        gallery(**words)


@pytest.mark.parametrize("names", [[], ["cosine", "wsd"]], ids=["all", "two"])
def test_the_command_draws_them_together(tmp_path, names):
    page = tmp_path / "new" / "schedules.html"
    words = ["schedules", *names, "--steps", "10000", "--warmup", "500", "--out", str(page)]
    ran = CliRunner().invoke(app, words, env={"COLUMNS": "120", "NO_COLOR": "1", "TERM": "dumb"})
    assert ran.exit_code == 0, ran.output
    rows = {line.split()[0]: line.split()[1] for line in ran.output.splitlines() if "█" in line}
    assert tuple(rows) == (tuple(names) or GALLERY_NAMES)
    assert rows["cosine"][:3] == "▄▇█"  # of each stretch the highest
    assert rows["cosine"][-1] == "▁"
    (chart,) = check_page(page.read_text(encoding="utf-8")).values()
    assert set(names or GALLERY_NAMES) <= set(told(chart))


def test_the_command_refuses_in_words(tmp_path):
    for wrong, says in ((["cosin"], "cosine"), (["--out", str(tmp_path / "a.png")], ".svg or .html")):
        ran = CliRunner().invoke(app, ["schedules", *wrong], env={"COLUMNS": "220", "TERM": "dumb"})
        assert ran.exit_code == 2
        assert says in ran.output


@pytest.mark.parametrize("warm", [None, 0, 1, 50, 93, 99])
def test_any_warmup_that_leaves_a_step_has_a_gallery(warm):
    for schedule in gallery(steps=100, warm=warm).values():
        assert all(0.0 <= schedule.value(update) <= 1.0 for update in range(100))
