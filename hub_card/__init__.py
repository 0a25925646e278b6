"""The model card of a finished run, its pictures, and the way to the Hub."""

from .card import write_card
from .pictures import draw_pictures
from .push import PushArguments, push_run

__all__ = ["PushArguments", "draw_pictures", "push_run", "write_card"]
