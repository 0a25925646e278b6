"""The analysis room: the studies of the second paper."""

from .study import STUDIES, analyze

__all__ = ["STUDIES", "analyze"]
