"""A Wave Network whose waves can be worked out on paper, and texts for it, as folders that a command reads."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from small_runs import write_csv

from wave_network import WaveConfig, WaveForSequenceClassification, load_wave_tokenizer

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# Each word's two dimensions. [CLS] and [SEP] are zero: they are tokens of the text, but carry none of its energy.
WORDS: dict[str, Sequence[float]] = {"three": (3.0, 1.0), "four": (4.0, 1.0), "none": (0.0, 1.0)}
# The second variant is the first one with its dimensions exchanged.
SECOND = ((0.0, 1.0), (1.0, 0.0))


def save_worked_model(
    folder: Path, words: Mapping[str, Sequence[float]] = WORDS, with_classifier: bool = True, **settings: object
) -> Path:
    """
    Saves a model of width 2 without positions, whose variants are `w`, the rows of the words, and `w` exchanged; by
    default with a classifier of two labels, `one` and `two`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join([*SPECIAL, *words]) + "\n", encoding="utf-8")
    load_wave_tokenizer(vocabulary, model_max_length=64).save_pretrained(folder)
    torch.manual_seed(0)
    config = WaveConfig(
        vocab_size=len(SPECIAL) + len(words),
        hidden_size=2,
        position_embedding_type="none",
        id2label={0: "one", 1: "two"},
        **settings,
    )
    model = WaveForSequenceClassification(config)
    with torch.no_grad():
        table = model.wave.embeddings.word_embeddings.weight
        table.zero_()
        table[len(SPECIAL) :] = torch.tensor(list(words.values()))
        variants = model.wave.layers[0].mixing.variants
        variants.weight.copy_(torch.cat([torch.eye(2), torch.tensor(SECOND)]))
        variants.bias.zero_()
    (model if with_classifier else model.wave).save_pretrained(folder)
    return folder


def write_worked_data(folder: Path, test: Sequence[str] = ("three four", "four none three", "none")) -> Path:
    """A folder of splits, of which the test split holds these texts."""
    folder.mkdir(parents=True, exist_ok=True)
    train = ("three four", "none", "four four three", "none none", "three", "none three", "four", "none four") * 2
    for split, texts in (("train", train), ("validation", train[:4]), ("test", test)):
        rows = [{"text": text, "label": ("one", "two")[index % 2]} for index, text in enumerate(texts)]
        write_csv(folder / f"{split}.csv", rows)
    return folder
