"""What a run shows while it goes: a line for each epoch, and on a terminal a bar that leaves nothing behind."""

import logging
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import datasets
from huggingface_hub.utils import enable_progress_bars
from tqdm.auto import tqdm
from transformers import ProgressCallback
from transformers.utils import logging as bars

from ..data.measure import TITLES, show

CLASSIFIERS = ("classifier", "score")  # how transformers' classifiers of texts call the map to the logits


class Progress(ProgressCallback):
    """The bars of transformers, which here leave nothing behind, and a line for each epoch in place of a dict."""

    def open_bar(self, name: str, total: int, args: Any, state: Any) -> Any:
        is_hidden = args.disable_tqdm or not state.is_world_process_zero
        return tqdm(total=total, desc=name, leave=False, disable=is_hidden, dynamic_ncols=True)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.training_bar = self.open_bar("Training", state.max_steps, args, state)
        self.current_step, self.loss, self.since = 0, "", time.perf_counter()

    def on_prediction_step(self, args: Any, state: Any, control: Any, eval_dataloader: Any = None, **more: Any) -> None:
        if self.prediction_bar is None:
            self.prediction_bar = self.open_bar("Measuring", len(eval_dataloader), args, state)
        super().on_prediction_step(args, state, control, eval_dataloader, **more)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Trainer logs the loss first, and then what it has validated, if it has."""
        if "loss" in logs:
            self.loss = f"loss {logs['loss']:.4g}"
        is_validated = "eval_loss" in logs
        if not state.is_world_process_zero or not (is_validated or ("loss" in logs and not control.should_evaluate)):
            return
        parts = [self.loss] if self.loss else []
        if is_validated:
            found = [
                f"{title} {show(name, logs[key])}" for name, title in TITLES.items() if (key := f"eval_{name}") in logs
            ]
            parts.append(", ".join([f"validation loss {logs['eval_loss']:.4g}", *found]))
        now = time.perf_counter()
        epoch = f"Epoch {state.epoch:.4g} of {state.num_train_epochs}"
        with tqdm.external_write_mode():
            print(f"{epoch}: {', '.join(parts)} ({now - self.since:.1f} s)", flush=True)
        self.loss, self.since = "", now


@contextmanager
def quiet() -> Iterator[None]:
    """Without the bars of transformers and datasets, which stay on the screen, and reports that go without saying."""
    were_active, were_disabled = bars.is_progress_bar_enabled(), datasets.are_progress_bars_disabled()
    loading = logging.getLogger("transformers.modeling_utils")
    loading.addFilter(is_news)
    bars.disable_progress_bar()
    datasets.disable_progress_bars()
    if sys.stderr.isatty():
        enable_progress_bars()  # of downloads, which transformers stops as well
    try:
        yield
    finally:
        loading.removeFilter(is_news)
        if were_active:
            bars.enable_progress_bar()
        if not were_disabled:
            datasets.enable_progress_bars()


def is_news(message: logging.LogRecord) -> bool:
    """Whether a message is more than the report of a model whose head is new, which goes without saying."""
    rows = re.findall(r"^(\S+) +\|", message.getMessage(), re.MULTILINE)
    return any(not row.startswith(("Key", *CLASSIFIERS)) for row in rows) or not rows
