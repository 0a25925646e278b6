"""`make demo`: fine-tune on BBC News, then load the result in a fresh process and classify three headlines."""

import subprocess
import sys
from pathlib import Path

RUN = Path("runs/bbc_news")


def main() -> None:
    if (RUN / "metrics.json").exists():
        print(f"{RUN} holds an ended run, which is used as it is. Remove the folder to train again.\n")
    else:
        command = [sys.executable, "-m", "wave_network", "finetune", "--dataset", "bbc_news"]
        resume = ["--resume_from_checkpoint", "last"] if RUN.exists() else []
        subprocess.run([*command, "--output_dir", str(RUN), *resume], check=True)
    print("\nThree headlines, through AutoModelForSequenceClassification in a fresh process:", flush=True)
    subprocess.run([sys.executable, str(Path(__file__).with_name("classify.py")), str(RUN)], check=True)


if __name__ == "__main__":
    main()
