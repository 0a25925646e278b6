"""The configuration room: what a Wave Network is made of."""

from .configuration_wave import WaveConfig

__all__ = ["WaveConfig"]
