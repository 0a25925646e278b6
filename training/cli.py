"""Moved to the root: wave_network.cli."""

from ..cli import main as main
