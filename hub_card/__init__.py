"""The Hub room: the model card of a run, made from its files, and putting the run on the Hub."""

from .card import write_card
from .push import push_run, resolve_repo

__all__ = ["push_run", "resolve_repo", "write_card"]
