"""The analysis room: a run's files -> figure. The only place that imports matplotlib."""

from .confusion import draw_confusion

__all__ = ["draw_confusion"]
