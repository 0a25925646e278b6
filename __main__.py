"""`python -m wave_network` is the command `wave-network`."""

from .cli import main

main()
