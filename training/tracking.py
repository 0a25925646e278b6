"""Experiment trackers: trackio, TensorBoard, wandb and the others that Trainer reports to."""

import contextlib
import importlib.util
import logging
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from transformers.integrations import get_available_reporting_integrations
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from .settings import RunArguments

logger = logging.getLogger(__name__)

# The extra of ours that installs a tracker.
EXTRAS = {"tensorboard": "track", "trackio": "track", "wandb": "wandb"}


def list_trackers(arguments: RunArguments) -> list[str]:
    return cast(list[str], arguments.report_to or [])  # transformers makes a list of it


def refuse_missing_trackers(arguments: RunArguments) -> None:
    """
    Raises:
        ValueError: `report_to` is no tracker that Trainer knows.
        ImportError: The package of one is not installed; the message says how to install it.
    """
    for name in list_trackers(arguments):
        if name not in INTEGRATION_TO_CALLBACK:
            raise ValueError(
                f"`report_to` must be 'none', 'all' or one of {sorted(INTEGRATION_TO_CALLBACK)}, got {name!r}."
            )
        if name in EXTRAS and importlib.util.find_spec(name) is None:
            raise ImportError(
                f"`report_to` {name!r} needs the package {name}, which is not installed: "
                f'pip install "wave-network[{EXTRAS[name]}]"'
            )
        if name not in EXTRAS and name not in get_available_reporting_integrations():
            raise ImportError(f"`report_to` {name!r} needs a package that is not installed: see its documentation.")


@contextlib.contextmanager
def track(arguments: RunArguments, folder: Path) -> Iterator[None]:
    """
    Has the trackers write into a folder, and nowhere else, and closes their runs in the end. A place that the user has
    set by the tracker's own environment variable goes before it.
    """
    trackers = list_trackers(arguments)
    places = {
        "TENSORBOARD_LOGGING_DIR": str(folder / "tensorboard"),
        "TRACKIO_DIR": str(folder / "trackio"),
        "WANDB_DIR": str(folder),  # in which wandb makes a folder of its name
        "WANDB_CACHE_DIR": str(folder / "wandb" / "cache"),
        "WANDB_PROJECT": str(arguments.project),
    }
    places = {name: place for name, place in places.items() if name not in os.environ}
    os.environ.update(places)
    words = sys.argv
    if arguments.hub_token:
        # wandb notes the command line, and sends it to its site.
        sys.argv = [word.replace(arguments.hub_token, "<HUB_TOKEN>") for word in words]
    try:
        if "trackio" in trackers:
            import trackio

            # It reads its place once, at import.
            if str(trackio.utils.TRACKIO_DIR) != os.environ["TRACKIO_DIR"]:
                logger.warning("trackio was in use before, and goes on writing to %s.", trackio.utils.TRACKIO_DIR)
        yield
    finally:
        # Trainer leaves the run of wandb open, and opens that of trackio again to report the test results.
        if "trackio" in trackers and trackio.context_vars.current_run.get() is not None:
            trackio.finish()
        if "wandb" in trackers and "wandb" in sys.modules:
            sys.modules["wandb"].finish()
        sys.argv = words
        for name in places:
            del os.environ[name]


def print_trackers(arguments: RunArguments, folder: Path) -> None:
    """Says how to look at what is tracked locally."""
    commands = {
        "tensorboard": f"tensorboard --logdir {shlex.quote(str(folder))}",
        "trackio": f"TRACKIO_DIR={shlex.quote(os.environ.get('TRACKIO_DIR', ''))} trackio show",
    }
    for name in list_trackers(arguments):
        if name in commands:
            print(f"To watch it: {commands[name]}")
