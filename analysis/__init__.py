"""The analysis room: a run's files -> figure. The only place that imports matplotlib."""

from .confusion import draw_confusion
from .reliability import draw_reliability

__all__ = ["draw_confusion", "draw_reliability"]
