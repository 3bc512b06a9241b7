"""Pages and pictures: what every room reports with.

A picture (:mod:`~gradstep.report.charts`, :mod:`~gradstep.report.surface`) is static SVG, drawn without a plotting
library; a page (:mod:`~gradstep.report.page`) is one HTML file without anything from elsewhere. Both follow the
reader's light or dark colour scheme. Text is escaped by the one function that makes elements
(:mod:`~gradstep.report.markup`).
"""

from gradstep.report.charts import Bar, BarChart, Level, Line, LineChart
from gradstep.report.page import Row, cards, facts, page, section, swatch, table
from gradstep.report.picture import Grid, Picture, check_file, figures
from gradstep.report.surface import SurfaceChart, Trajectory

__all__ = [
    "Bar",
    "BarChart",
    "Grid",
    "Level",
    "Line",
    "LineChart",
    "Picture",
    "Row",
    "SurfaceChart",
    "Trajectory",
    "cards",
    "check_file",
    "facts",
    "figures",
    "page",
    "section",
    "swatch",
    "table",
]
