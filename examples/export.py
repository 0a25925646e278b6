"""Export a run and classify with the file alone: `python examples/export.py runs/bbc_news [onnx-int8]`."""

import sys
from pathlib import Path

from wave_network.inference.classify import ExportedClassifier
from wave_network.inference.export import ExportArguments, export_model

HEADLINES = [
    "Shares fall as the central bank raises interest rates to a ten-year high",
    "Striker scores twice as the champions win the cup final in extra time",
    "Researchers warn of a security flaw that lets attackers read mail on mobile phones",
]


def main(words: list[str]) -> None:
    run, kind = words[0], words[1] if len(words) > 1 else "onnx"
    folder = Path(f"{Path(run).absolute()}-{kind}")  # beside the run, also of `runs/bbc_news/`
    if not folder.exists():
        export_model(ExportArguments(model=run, format=kind, output_dir=str(folder)))
    # From here on neither torch nor transformers is needed: `classify.py` in the folder has this class, too.
    classifier = ExportedClassifier(folder)
    for text, (best,) in zip(HEADLINES, classifier.classify(HEADLINES), strict=True):
        print(f"{best['label']:>15}  {best['score']:6.1%}  {text}")


if __name__ == "__main__":
    main(sys.argv[1:])
