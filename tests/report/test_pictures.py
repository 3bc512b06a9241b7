"""The room of pages and pictures."""

import itertools
import math
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gradstep.report import (
    Bar,
    BarChart,
    Grid,
    Level,
    Line,
    LineChart,
    Row,
    SurfaceChart,
    SurfacePath,
    cards,
    figures,
    page,
    section,
    table,
)
from gradstep.report import words as told
from gradstep.report.markup import COLOURS
from gradstep.report.scales import Scale, fit, spread
from gradstep.report.surface import contours
from tests.pages import HOSTILE, SVG, check_page, check_picture, lines, pictures, words

GRID = np.linspace(-1.0, 1.0, 21)
PATHS = [SurfacePath(HOSTILE, HOSTILE, "blue", [(0.5, 0.5), (0.0, 0.0)]), SurfacePath("none", "", "red", [])]
EVERY = [
    LineChart(HOSTILE, "steps", "loss", [Line(HOSTILE, [0, 1, 2], [1.0, math.nan, math.inf]), Line("b", [0], [None])]),
    LineChart("no line", "steps", "loss", []),
    LineChart(
        "all", "steps", "loss", [Line("a", [0, 1], [1.0, 2.0], low=[0.5, 1.0], high=[2.0, 3.0], dashed=True)],
        y_log=True, levels=[Level(0.1, HOSTILE, high=10.0), Level(100.0, "alarming", "red")], marks=[(1.0, HOSTILE)],
    ),
    LineChart("dots", "x", "scores", [Line("a", [1, 10, 100], [1.0, -2.0, 3.0], points=True)], x_log=True),
    BarChart(HOSTILE, "ms", [Bar(HOSTILE, [(1.0, "blue"), (2.0, "pale")], HOSTILE, ends=(2, 4))], limit=(9, HOSTILE)),
    BarChart("none", "bytes", [], keys=[("a", "blue"), (HOSTILE, "red")]),
    BarChart("zero", "bytes", [Bar("a" * 200, [(0.0, "blue")], "0 B" * 200)]),
    BarChart("logarithmic", "height", [Bar("a", [(1e-30, "blue")], "tiny"), Bar("b", [(1.0, "red")], "1")], x_log=True),
    SurfaceChart(HOSTILE, "x", "y", GRID, GRID, GRID[None, :] ** 2 + GRID[:, None] ** 2, PATHS, (0.0, 0.0)),
]  # fmt: skip


@pytest.mark.parametrize("picture", [*EVERY, Grid("all", EVERY)], ids=lambda picture: type(picture).__name__)
@pytest.mark.parametrize("width", [250.0, 354.0, 590.0, 1216.0])
def test_pictures_are_well_formed_and_stay_inside(picture, width):
    root = ElementTree.fromstring(picture.svg(width))
    check_picture(root)
    assert root.attrib["viewBox"].split()[2] == f"{width:g}"
    for text in root.iter(SVG + "text"):
        assert float(text.attrib["x"]) <= width + 1
    ElementTree.fromstring(picture.file())


def test_a_hostile_name_is_text_wherever_it_stands():
    body = [
        cards([(HOSTILE, HOSTILE, "good"), (HOSTILE, HOSTILE, "#place")]),
        section(HOSTILE, table([HOSTILE], [[HOSTILE], Row([HOSTILE], [True], HOSTILE)]), id_=HOSTILE),
        figures(EVERY),
    ]
    text = page(HOSTILE, HOSTILE, *body)
    check_page(text)
    assert "alert(1)</script>" not in text
    assert not {"\x00", "\x1b", "\ud800"} & set(text)
    assert len(list(pictures(text))) == 2 * len(EVERY)


def test_a_page_is_small_whatever_it_shows():
    rng = np.random.default_rng(0)
    long = [Line(str(k), range(20_000), rng.normal(size=20_000).tolist()) for k in range(8)]
    check_page(page("t", "b", figures([LineChart(str(k), "steps", "loss", long) for k in range(9)])))
    ways = [SurfacePath(str(k), "", "blue", rng.uniform(-1, 1, (5_000, 2)).tolist()) for k in range(16)]
    chart = SurfaceChart("t", "x", "y", GRID, GRID, GRID[None, :] ** 2 + GRID[:, None] ** 2, ways, (0.0, 0.0))
    check_page(page("t", "b", figures([chart, chart], wide=True)))


def test_lines_stand_where_their_values_are():
    chart = LineChart("t", "steps", "loss", [Line("a", [0, 5, 10], [0.0, 10.0, 2.5])], y=Scale(0.0, 10.0))
    root = ElementTree.fromstring(chart.svg(590.0))
    plot = next(element for element in root.iter(SVG + "svg") if element.get("class") == "plot")
    wide, tall = float(plot.attrib["width"]), float(plot.attrib["height"])
    expected = [(0.0, tall), (wide / 2, 0.0), (wide, 0.75 * tall)]
    np.testing.assert_allclose(lines(root)["a"], expected, atol=0.06)
    assert {"steps", "loss", "0", "5", "10"} <= set(words(root))


def test_a_spike_does_not_flatten_the_rest():
    # Of 51 values the middle 96 in 100 are 1 to 49 (places 1 and 49): a span of 48. Shown is up to 49 + 2 · 48 = 145,
    # and 6 in 100 of 0 to 145 as a margin; the line begins at 0, and so does the axis.
    assert fit([*range(50), 1000.0]) == Scale(0.0, 145 + 0.06 * 145)
    assert fit([*range(50), math.nan, None, 60.0]).high == 60 + 0.06 * 60


def test_a_constant_stands_in_the_middle():
    assert fit([1e-3] * 9) == Scale(0.0, 2e-3)
    assert fit([-4.0]) == Scale(-8.0, 0.0)
    assert fit([0.0]) == Scale(0.0, 1.0)
    assert fit([5.0], log=True).at(5.0) == pytest.approx(0.5)
    assert fit([], include=[0.5]) == Scale(0.0, 1.0)


def test_ticks_by_hand():
    assert Scale(0.0, 1.0).ticks(5) == [0.0, 0.5, 1.0]  # a step of 0.2 makes six
    assert Scale(-3.0, 12.0).ticks(5) == [0.0, 5.0, 10.0]
    assert Scale(3e-4, 3.1e-4).ticks(5) == [3e-4, 3.05e-4, 3.1e-4]
    assert Scale(1e-9, 1e3, log=True).ticks(5) == [1e-9, 1e-6, 1e-3, 1.0, 1e3]  # thirteen powers, each third
    assert Scale(0.04, 3.0, log=True).ticks(5) == [0.05, 0.1, 0.2, 0.5, 1.0, 2.0]
    assert Scale(2.0, 2.9, log=True).ticks(5) == [2.0, 2.2, 2.4, 2.6, 2.8]


@pytest.mark.parametrize("log", [False, True])
def test_ticks_are_few_and_inside_at_any_scale(log):
    rng = np.random.default_rng(0)
    for low, ratio in zip(10.0 ** rng.uniform(-200, 200, 500), 10.0 ** rng.uniform(0.01, 60, 500)):
        scale = Scale(low, low * ratio, log=log)
        ticks = scale.ticks(5)
        assert 1 <= len(ticks) <= 7
        assert ticks == sorted(set(ticks))
        assert all(-1e-6 <= scale.at(tick) <= 1 + 1e-6 for tick in ticks)


@example([sys.float_info.max], True)
@example([5e-324], True)
@example([5e-324, sys.float_info.max], True)
@given(st.lists(st.floats(allow_nan=True, allow_infinity=True)), st.booleans())
def test_any_values_have_an_axis(values, log):
    scale = fit(values, log=log)
    assert 1 <= len(scale.ticks(5)) <= 7
    for value in values:
        if not math.isnan(value):
            assert -3.0 <= scale.at(value) <= 4.0
    drawn = ElementTree.fromstring(
        LineChart("t", "steps", "y", [Line("a", range(len(values)), values)], y=scale).svg(400)
    )
    check_picture(drawn)


@pytest.mark.parametrize(("low", "high", "log"), [(1.0, 1.0, False), (2.0, 1.0, False), (0.0, 1.0, True)])
def test_an_axis_that_cannot_be_is_refused(low, high, log):
    with pytest.raises(ValueError, match="Invalid range of an axis"):
        Scale(low, high, log)


def test_lines_of_equal_height_are_where_the_height_is():
    x = np.linspace(-1.0, 1.0, 201)
    heights = np.sqrt(x[None, :] ** 2 + x[:, None] ** 2)  # a cone: circles of radius √2 / 2
    drawn = contours(heights, levels=1).replace("L", "M").split("M")[1:]
    radii = [math.hypot(*(2 * float(c) / 1000 - 1 for c in point.split(","))) for point in drawn]
    assert len(radii) > 200
    np.testing.assert_allclose(radii, math.sqrt(2) / 2, atol=0.003)


def luminance(colour):
    channels = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_contrast_is_what_wcag_asks_for():
    for mode in (0, 1):
        paper = luminance(COLOURS["paper"][mode])
        for name in COLOURS.keys() - {"paper", "wash", "grid", "pale"}:
            light, dark = sorted((paper, luminance(COLOURS[name][mode])), reverse=True)
            least = 4.5 if name in {"ink", "quiet"} else 3.0  # text, and lines
            assert (light + 0.05) / (dark + 0.05) >= least, name


def test_a_picture_is_saved_by_its_ending(tmp_path):
    chart = LineChart("t", "steps", "loss", [Line("", [0, 1], [1.0, 2.0])])
    drawn = chart.save(tmp_path / "new" / "a.svg")
    check_picture(ElementTree.parse(drawn).getroot())
    assert "prefers-color-scheme" in drawn.read_text(encoding="utf-8")
    check_page(chart.save(tmp_path / "a.HTML").read_text(encoding="utf-8"))
    with pytest.raises(ValueError, match=r"\.svg or \.html"):
        chart.save(tmp_path / "a.png")


@given(st.lists(st.floats(0, 200), min_size=1, max_size=24))
def test_names_beside_a_chart_keep_their_distance_their_order_and_the_chart(wanted):
    places = spread(wanted, 15.0, 200.0)
    gap = min(15.0, 200.0 / max(1, len(wanted) - 1))
    ordered = sorted(places)
    assert all(high - low >= gap - 1e-9 for low, high in itertools.pairwise(ordered))
    assert ordered[0] >= -1e-9
    assert ordered[-1] <= 200 + 1e-9
    for i, one in enumerate(wanted):
        for j, other in enumerate(wanted):
            assert one >= other or places[i] < places[j]


def test_numbers_in_words():
    assert [told.number(value) for value in (None, 0.0, 0.04213, 2.5181, 3.1e-9, 123456.0, math.nan)] == [
        "–", "0", "0.04213", "2.518", "3.1e-9", "1.2e5", "nan",
    ]  # fmt: skip
    assert [told.seconds(value) for value in (None, 4.31e-5, 0.00125, 2.1, 130.0, 2e-7)] == [
        "–", "43.1 µs", "1.25 ms", "2.10 s", "130 s", "0.20 µs",
    ]  # fmt: skip
    assert [told.percent(value) for value in (None, 0.982)] == ["–", "98.2 %"]
    assert told.plus_minus(7.0, 0.123) == "7.00 ± 0.12"
    assert told.plus_minus(1.0, 6.7e-41) == "1.000"


def test_numbers_that_float64_hardly_has_are_on_an_axis():
    assert fit([0.0, 5e-324]).ticks() == [fit([0.0, 5e-324]).low, fit([0.0, 5e-324]).high]
