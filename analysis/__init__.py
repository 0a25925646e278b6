"""The analysis room: the studies of the second paper, `wave-network analyze`."""

from .study import STUDIES, analyze

__all__ = ["STUDIES", "analyze"]
