"""The finished chunks of an output file: they lie in a folder beside it until it is complete."""

import csv
import json
import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tqdm import tqdm


class Parts:
    """
    A chunk is a number of rows, and becomes a file of its own: `.NAME.parts/INDEX-DIGEST.csv`, where the digest is that
    of the texts that the rows are about. So a run that was interrupted goes on with what is finished, by any number of
    processes, and nothing is put together that does not belong together.
    """

    def __init__(self, output: Path):
        self.output = output
        self.folder = output.with_name(f".{output.name}.parts")
        self.settings = self.folder / "settings.json"

    def begin(self, settings: dict[str, Any], overwrite: bool) -> None:
        """
        Makes the folder, or finds that of an interrupted run, which must be one with the same settings.

        Raises:
            ValueError: It is not; the message names the setting.
        """
        if overwrite and self.folder.is_dir():
            shutil.rmtree(self.folder)
        finished = len(self.find())
        if finished:
            self.compare(settings)
            sys.stderr.write(f"An interrupted run goes on. Finished chunks: {finished:,}.\n")
            return
        self.folder.mkdir(exist_ok=True)
        temporary = self.settings.with_suffix(".tmp")
        temporary.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        os.replace(temporary, self.settings)

    def compare(self, settings: dict[str, Any]) -> None:
        try:
            then = json.loads(self.settings.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{self.settings} cannot be read: {error}. It says what an interrupted run was; without it, start anew "
                "with --overwrite."
            ) from error
        for name, value in settings.items():
            if then.get(name) != value:
                raise ValueError(
                    f"{str(self.folder)!r} holds finished chunks of an interrupted run with another `{name}`: "
                    f"{then.get(name)!r}, and now it is {value!r}. Go on with the former, choose another `output`, or "
                    "start anew with --overwrite."
                )

    def find(self) -> dict[int, str]:
        """The digest of each finished chunk, by its index."""
        names = [path.stem.partition("-") for path in self.folder.glob("*-*.csv")]
        return {int(index): digest for index, _, digest in names}

    def name(self, index: int, digest: str) -> Path:
        return self.folder / f"{index:08d}-{digest}.csv"

    def write(self, index: int, digest: str, rows: Iterable[list[Any]]) -> None:
        path = self.name(index, digest)
        temporary = path.with_suffix(".tmp")
        with temporary.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(rows)
        os.replace(temporary, path)

    def join(self, header: list[str], count: int) -> None:
        """
        Puts the chunks together, in order. The output takes its name only when it is complete.

        Raises:
            FileNotFoundError: A chunk is missing.
        """
        finished = self.find()
        missing = [index for index in range(count) if index not in finished]
        if missing:
            raise FileNotFoundError(
                f"Chunk {missing[0]} of {count} is missing in {str(self.folder)!r}: it must be on a disk that all "
                "processes share, and no other command may write there."
            )
        temporary = self.output.with_name(f".{self.output.name}.tmp")
        try:
            with temporary.open("w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerow(header)
            with temporary.open("ab") as file:
                for index in tqdm(range(count), desc="Putting together", unit=" chunks", delay=1):
                    with self.name(index, finished[index]).open("rb") as part:
                        shutil.copyfileobj(part, file)
            os.replace(temporary, self.output)
        finally:
            temporary.unlink(missing_ok=True)
        shutil.rmtree(self.folder)

    def leave(self) -> None:
        """What remains when a run ends too early: the finished chunks, or nothing."""
        finished = len(self.find())
        if finished:
            sys.stderr.write(f"Finished chunks that are kept in {str(self.folder)!r}: {finished:,}.\n")
        else:
            shutil.rmtree(self.folder, ignore_errors=True)
