"""What preview() and plot() show."""

import subprocess
import sys

import numpy as np
import pytest

from gradstep.schedules import constant, cosine, multi_step, warmup
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
    line = schedule.plot().axes[0].lines[-1]
    drawn = dict(zip(line.get_xdata(), line.get_ydata()))
    assert drawn == {update: schedule(update) for update in drawn}
    total = schedule.updates or 1000
    assert {0, total - 1, *schedule.boundaries(total)} <= set(drawn)


def test_a_plot_of_a_million_updates_has_no_million_points():
    path = cosine(1.0, updates=10**6).plot().axes[0].lines[-1].get_path()
    assert np.shape(path.vertices)[0] < 3000


def test_schedules_need_no_torch_and_no_matplotlib():
    code = (
        "import sys; from gradstep.schedules import cosine; cosine(1.0, updates=9).preview();"
        "print([m for m in ('torch', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install \"gradstep\[lab\]\""):
        WARM.plot()
