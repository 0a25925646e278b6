"""A sweep as a picture: how it went on, and what each setting did."""

import json
import math
from pathlib import Path

from .figures import BLUE, VERMILION, new_figure

COLUMNS = 3


def draw_sweep(folder: str | Path) -> Path:
    """
    Draws `sweep.png` in the folder of a sweep from its `sweep.json`: a panel with the value of each trial in order and
    the best one so far, and a panel for each setting with the values over it. Pruned trials are hollow.

    Returns:
        The path of the picture.

    Raises:
        FileNotFoundError: There is no `sweep.json` in the folder.
    """
    folder = Path(folder)
    record = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))
    trials = [trial for trial in record["trials"] if trial["value"] is not None]
    rows = math.ceil((len(record["space"]) + 1) / COLUMNS)
    figure = new_figure(4 * COLUMNS, 3.2 * rows)
    panels = figure.subplots(rows, COLUMNS, sharey=True, squeeze=False).flat

    history = next(panels)
    better = max if record["direction"] == "maximize" else min
    complete = [trial for trial in trials if trial["state"] == "complete"]
    best = [better(trial["value"] for trial in complete[: count + 1]) for count in range(len(complete))]
    history.step([trial["number"] for trial in complete], best, where="post", color=VERMILION, label="best so far")
    scatter(history, [(trial["number"], trial) for trial in trials])
    history.set_xlabel("trial")
    if best:
        history.legend()
    for (name, choice), axes in zip(record["space"].items(), panels, strict=False):
        if isinstance(choice, list):
            places = {str(value): place for place, value in enumerate(choice)}
            scatter(axes, [(places[str(trial["settings"][name])], trial) for trial in trials])
            axes.set_xticks(range(len(places)), places, parse_math=False)
        else:
            axes.set_xlim(choice["low"], choice["high"])
            axes.set_xscale("log" if choice.get("log") else "linear")
            scatter(axes, [(trial["settings"][name], trial) for trial in trials])
        axes.set_xlabel(name)
    for axes in panels:
        axes.set_visible(False)
    figure.supylabel(f"{record['metric']} in validation")
    # Names come from the data: a dollar sign in one must not be read as mathematics.
    figure.suptitle(f"{record['data']['name']}: {len(record['trials'])} trials", parse_math=False)
    path = folder / "sweep.png"
    figure.savefig(path, dpi=120)
    return path


def scatter(axes, points: list[tuple[float, dict]]) -> None:
    for state, face in (("complete", BLUE), ("pruned", "none")):
        chosen = [(x, trial["value"]) for x, trial in points if trial["state"] == state]
        x, y = zip(*chosen, strict=True) if chosen else ((), ())
        axes.scatter(x, y, facecolors=face, edgecolors=BLUE, s=28, clip_on=False)
