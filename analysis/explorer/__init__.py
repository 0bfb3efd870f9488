"""Explorer: one sample under any adjustment, with widgets to turn, or as one still figure.

    choice → look (from `teaching`, it knows the models) → View → draw → picture

`look` is handed in, so that this package needs neither torch nor `aba_core`. With a reader there is
a panel, without one the same drawing of the first choice (see `interactive.attended`).
"""

from analysis.explorer.choice import METHODS, SPLITS, TARGETS, Choice, View, sentence
from analysis.explorer.drawing import CATEGORY_COLOURS, Drawing, draw, picture
from analysis.explorer.panel import Panel, show
from analysis.explorer.side_by_side import draw_maps

__all__ = [
    "CATEGORY_COLOURS",
    "METHODS",
    "SPLITS",
    "TARGETS",
    "Choice",
    "Drawing",
    "Panel",
    "View",
    "draw",
    "draw_maps",
    "picture",
    "sentence",
    "show",
]
