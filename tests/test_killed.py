"""A process may be killed and a disk be full at any point: what is found then is the old or the new, never a half."""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from small_runs import distance, finetune_small, make_rows, read_metrics, refuse, small_words, write_csv

from wave_network import files
from wave_network.cli import main
from wave_network.training.distil import DistilArguments, distil
from wave_network.training.finetune import find_checkpoint

# What a folder holds: the bytes of each file.
State = dict[str, bytes]
WRITES = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "shutil.move"}


class Camera:
    """Takes a picture of a folder before each write of this process. It is what a kill at this point leaves."""

    folder: Path | None = None

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.folder is None or event not in WRITES or not str(arguments[0]).startswith(str(self.folder)):
            return
        folder, self.folder = self.folder, None
        state = read_state(folder)
        if not self.states or state != self.states[-1]:
            self.states.append(state)
        self.folder = folder

    @contextmanager
    def watch(self, folder: Path) -> Iterator[list[State]]:
        """The states in between, also with each file that was written cut in the middle."""
        self.states: list[State] = []
        self.folder = folder.resolve()
        try:
            yield (found := [])
        finally:
            self.folder = None
        self.states.append(read_state(folder.resolve()))
        found += self.states
        for before, after in pairwise(self.states):
            new = {name for name, content in after.items() if before.get(name) != content}
            is_moved = set(before.values())
            found += [
                before | {name: after[name][: len(after[name]) // 2]} for name in new if after[name] not in is_moved
            ]


CAMERA = Camera()
sys.addaudithook(CAMERA)


def read_state(folder: Path) -> State:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def restore(state: State, folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, content in state.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def write_old_and_new(folder: Path) -> tuple[list[State], State, State]:
    """The states of a folder while a file and a folder of it are replaced."""

    def write(text: str) -> None:
        with files.open_folder(folder / "made", overwrite=True) as made:
            (made / "within").mkdir()
            (made / "within" / "a").write_text(text)
            (made / text[:3]).write_text(text)
        files.write_text(folder / "file", text)

    write("old" * 1000)
    old = read_state(folder)
    with CAMERA.watch(folder) as states:
        write("new")
    return states, old, read_state(folder)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, a folder is replaced in two steps")
def test_files_and_folders_are_old_or_new(tmp_path: Path):
    states, old, new = write_old_and_new(tmp_path)
    assert len(states) > 5
    for state in states:
        for name in ("file", "made"):
            found, *known = (
                {key: state_[key] for key in state_ if key.startswith(name)} for state_ in (state, old, new)
            )
            assert found in known


def test_a_folder_is_replaced_where_names_cannot_be_exchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(files, "exchange", lambda one, other: False)
    _, _, new = write_old_and_new(tmp_path)
    assert new == {"file": b"new", "made/new": b"new", "made/within/a": b"new"}


def test_predictions_are_old_or_new(run: Path, tmp_path: Path):
    file = write_csv(tmp_path / "texts.csv", make_rows(9, seed=3))
    output = tmp_path / "texts.csv.predictions.csv"
    output.write_text("old")
    with CAMERA.watch(tmp_path) as states:
        main(["predict", str(run), "--file", str(file), "--overwrite"])
    assert {state[output.name] for state in states} == {b"old", output.read_bytes()}


def test_a_run_that_is_killed_anywhere_goes_on_and_ends_as_if_it_had_not(data_folder: Path, tmp_path: Path):
    run, again = tmp_path / "run", tmp_path / "again"
    run.mkdir()
    with CAMERA.watch(run) as states:
        finetune_small(data_folder, run, num_train_epochs=2, calibrate=True)
    weights, card = (run / "model.safetensors").read_bytes(), (run / "README.md").read_bytes()
    found: dict[str | None, State] = {}
    for state in states:
        restore(state, again)
        assert state.get("model.safetensors", weights) == weights
        assert state.get("README.md", card) == card
        if "metrics.json" in state:
            assert state["metrics.json"] == (run / "metrics.json").read_bytes()
            assert state["config.json"] == (run / "config.json").read_bytes()
            continue
        checkpoint = find_checkpoint(again, "last")
        found[checkpoint and checkpoint.name] = state
        if checkpoint is not None:
            assert load_file(checkpoint / "model.safetensors")
            assert torch.load(checkpoint / "optimizer.pt", weights_only=True)
    assert len(found) == 3
    for state in found.values():
        restore(state, again)
        finetune_small(data_folder, again, num_train_epochs=2, calibrate=True, resume_from_checkpoint="last")
        assert distance(run, again) == 0
        assert read_metrics(run)["results"] == read_metrics(again)["results"]
        assert not list(again.glob("_saving-*"))


def test_a_distillation_that_is_killed_anywhere_ends_as_if_it_had_not(tmp_path: Path):
    texts = [f"{row['text']} of five words or more {index}" for index, row in enumerate(make_rows(80, seed=0))]
    vectors = np.random.default_rng(0).standard_normal((80, 8)).tolist()
    pd.DataFrame({"text": texts, "vector": vectors}).to_parquet(tmp_path / "teacher.parquet")
    output = tmp_path / "output"
    output.mkdir()
    sizes = {"hidden_size": 16, "vocab_size": 100, "batch_size": 16, "held_out": 16, "eval_steps": 2}
    settings = {"teacher": str(tmp_path / "teacher.parquet"), "output_dir": str(output), "disable_tqdm": True}

    def run() -> dict[str, torch.Tensor]:
        return load_file(distil(DistilArguments(**settings, **sizes, num_train_epochs=1)) / "model.safetensors")

    with CAMERA.watch(output) as states:
        weights = run()
    different: dict[Any, State] = {}  # by the stages and, in their training, by how the checkpoints end
    for state in states:
        if "config.json" not in state:
            stages = {name.split("/")[1] for name in state if name.startswith("work/") and "/." not in name}
            ends = tuple(len(content) for name, content in state.items() if name.endswith("trainer_state.json"))
            different[ends or len(stages) // 3] = state
    assert len(different) > 5
    for state in different.values():
        restore(state, output)
        torch.testing.assert_close(run(), weights, rtol=0, atol=0)


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """A file can have no more than so many bytes, whoever writes it, as on a disk that is full."""
    resource = pytest.importorskip("resource")  # of Unix
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [1500, 12_000, 25_000, 40_000])
def test_a_run_on_a_full_disk_ends_in_one_line_and_goes_on(
    size: int, data_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run = tmp_path / "run"
    with full_disk(size):
        line = refuse(small_words(data_folder, run, num_train_epochs=1), capsys)
    assert str(run) in line
    assert "cannot be written" in line
    finetune_small(data_folder, run, num_train_epochs=1, resume_from_checkpoint="last")
    assert (run / "README.md").exists()


def test_predictions_on_a_full_disk_leave_the_old(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = write_csv(tmp_path / "texts.csv", make_rows(99, seed=3))
    (tmp_path / "texts.csv.predictions.csv").write_text("old")
    before = read_state(tmp_path)
    with full_disk(1000):
        line = refuse(["predict", str(run), "--file", str(file), "--overwrite"], capsys)
    assert f"{file}.predictions.csv' cannot be written: [Errno 27] {os.strerror(27)}" in line
    assert read_state(tmp_path) == before
