"""The Hub room: the model card of a run, made from its files, and putting the run on the Hub."""

from .card import write_card
from .push import push_run

__all__ = ["push_run", "write_card"]
