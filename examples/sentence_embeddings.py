"""Sentence embeddings: trains a Wave encoder with sentence-transformers, `python examples/sentence_embeddings.py`.

The pairs come from the texts of a data set (as in `wave-network finetune --dataset`): its first words ask for its rest.
Without arguments it learns from BBC News to find an article by its headline.
"""

import argparse
import tempfile
from pathlib import Path

from datasets import Dataset

from wave_network import WaveConfig, WaveModel, train_wave_tokenizer
from wave_network.data.load import load_text_data

try:
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from sentence_transformers.sentence_transformer.modules import Pooling
except ImportError as error:
    raise ImportError(
        f'Sentence embeddings need sentence-transformers: pip install "wave-network[sentence-transformers]" ({error})'
    ) from error


def split_texts(texts: list[str], count: int) -> Dataset:
    """Pairs of the first words of a text and the rest, from the texts that are long enough."""
    words = [text.split() for text in texts]
    return Dataset.from_list(
        [
            {"anchor": " ".join(text[:count]), "positive": " ".join(text[count:])}
            for text in words
            if len(text) >= 2 * count
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", nargs="?", default="bbc_news", help="as in `wave-network finetune --dataset`")
    parser.add_argument("--output", default="runs/sentence_embeddings", help="folder for the model")
    parser.add_argument("--words", type=int, default=8, help="how many words of a text ask for the rest")
    parser.add_argument("--epochs", type=float, default=3)
    arguments = parser.parse_args()
    if (Path(arguments.output) / "modules.json").exists():
        parser.error(f"there is a model in {arguments.output!r} already: name another --output")

    data = load_text_data(arguments.dataset)
    train, held_out = (split_texts(split["text"], arguments.words) for split in (data.train, data.validation))
    if not (len(train) and len(held_out)):
        parser.error(f"too few texts of {2 * arguments.words} words in {arguments.dataset!r}: try fewer --words")
    tokenizer = train_wave_tokenizer(data.train["text"], vocab_size=8192)
    with tempfile.TemporaryDirectory() as base:
        WaveModel(WaveConfig(vocab_size=len(tokenizer), hidden_size=256, hidden_dropout_prob=0.1)).save_pretrained(base)
        tokenizer.save_pretrained(base)
        transformer = Transformer(base, max_seq_length=128)
    model = SentenceTransformer(modules=[transformer, Pooling(transformer.get_embedding_dimension())])

    numbers = [str(index) for index in range(len(held_out))]
    evaluator = InformationRetrievalEvaluator(
        queries=dict(zip(numbers, held_out["anchor"], strict=True)),
        corpus=dict(zip(numbers, held_out["positive"], strict=True)),
        relevant_docs={number: {number} for number in numbers},
        write_csv=False,
    )
    before = evaluator(model)
    trainer = SentenceTransformerTrainer(
        model,
        SentenceTransformerTrainingArguments(
            output_dir=arguments.output,
            num_train_epochs=arguments.epochs,
            per_device_train_batch_size=64,
            learning_rate=2e-3,
            warmup_steps=10,
            logging_steps=10,
            save_strategy="no",
            report_to="none",
        ),
        train_dataset=train,
        loss=MultipleNegativesRankingLoss(model),
    )
    trainer.train()
    after = evaluator(model)
    model.save_pretrained(arguments.output)

    for measure in ("accuracy@1", "mrr@10"):
        print(f"{measure} of {len(held_out)} held-out texts: {before[f'cosine_{measure}']:.3f} untrained, ", end="")
        print(f"{after[f'cosine_{measure}']:.3f} trained")
    again = SentenceTransformer(arguments.output)
    vectors = again.encode(held_out["positive"][:100], batch_size=32, normalize_embeddings=True)
    print(f"{arguments.output}: {vectors.shape[0]} texts became vectors of {vectors.shape[1]} dimensions")


if __name__ == "__main__":
    main()
