"""The analysis room: a run's files -> figure, and the studies of the second paper. Alone to import matplotlib."""

from .confusion import draw_confusion
from .reliability import draw_reliability
from .study import STUDIES, analyze

__all__ = ["STUDIES", "analyze", "draw_confusion", "draw_reliability"]
