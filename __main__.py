"""`python -m wave_network` is the command `wave-network`."""

from .cli import main

if __name__ == "__main__":
    main()
