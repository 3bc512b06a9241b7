"""Pages and pictures for the reports of every room.

A picture (:mod:`~gradstep.report.charts`, :mod:`~gradstep.report.surface`) is static SVG, drawn without a plotting
library. A page (:mod:`~gradstep.report.page`) is one HTML file that loads nothing else. Both follow the reader's light
or dark colour scheme. One function makes all elements and escapes their text (:mod:`~gradstep.report.markup`).
"""

from gradstep.report.charts import Bar, BarChart, Level, Line, LineChart
from gradstep.report.page import Row, cards, facts, page, section, swatch, table
from gradstep.report.picture import Grid, Picture, check_picture_file, figures
from gradstep.report.surface import SurfaceChart, SurfacePath

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
    "SurfacePath",
    "cards",
    "check_picture_file",
    "facts",
    "figures",
    "page",
    "section",
    "swatch",
    "table",
]
