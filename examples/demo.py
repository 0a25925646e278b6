"""`make demo`: BBC News from 64 labelled articles, then from all; the result classifies three headlines."""

import subprocess
import sys
from pathlib import Path

RUN, FEW_RUN = Path("runs/bbc_news"), Path("runs/bbc_news_64")
FEW = 64


def main() -> None:
    if not is_ended(FEW_RUN):
        print(f"{FEW} articles of the training rows:", flush=True)
        train_on_few()
    if not is_ended(RUN):
        print("\nAll training rows, by the command:", flush=True)
        command = [sys.executable, "-m", "wave_network", "finetune", "bbc_news", "--output_dir", str(RUN)]
        subprocess.run([*command, *(["--resume_from_checkpoint", "last"] if RUN.exists() else [])], check=True)
    print("\nThree headlines, through AutoModelForSequenceClassification in a fresh process:", flush=True)
    subprocess.run([sys.executable, str(Path(__file__).with_name("classify.py")), str(RUN)], check=True)


def is_ended(folder: Path) -> bool:
    ended = (folder / "metrics.json").exists()
    if ended:
        print(f"{folder} holds an ended run, which is used as it is. Remove the folder to train again.\n")
    return ended


def train_on_few() -> None:
    from wave_network import finetune
    from wave_network.data.load import load_text_data

    data = load_text_data(dataset="bbc_news")
    few, test = data.train.shuffle(seed=0).select(range(FEW)), data.test
    few, test = ((list(rows["text"]), [data.label_names[label] for label in rows["label"]]) for rows in (few, test))
    resume = "last" if FEW_RUN.exists() else None
    finetune(few, FEW_RUN, test=test, resume_from_checkpoint=resume)


if __name__ == "__main__":
    main()
