"""The tokenization room: trains or loads a WordPiece tokenizer; both return transformers' own fast class."""

from .tokenization_wave import load_wave_tokenizer, train_wave_tokenizer

__all__ = ["load_wave_tokenizer", "train_wave_tokenizer"]
