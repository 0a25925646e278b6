"""The tokenization room: trains or loads a tokenizer; both are transformers' own fast classes."""

from .tokenization_wave import load_wave_tokenizer, spell, train_wave_tokenizer

__all__ = ["load_wave_tokenizer", "spell", "train_wave_tokenizer"]
