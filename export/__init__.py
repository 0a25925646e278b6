"""The export room: a trained classifier as a file of another runtime, and what runs that file without transformers."""

from .runtime import ExportedClassifier

__all__ = ["ExportedClassifier"]
