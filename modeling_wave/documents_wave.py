# Copyright 2026 The wave-network maintainers. Licensed under the Apache License, Version 2.0.
"""Documents of any length, read in chunks: the hidden states of one pass, in the memory of one chunk.

A wave needs two numbers per dimension of its whole text (`ops_wave.Summary`), and the summary of a text follows from
those of its chunks. So all chunks are read once for each layer, through the layers before it, and once more for the
result. This is for inference: a gradient needs the whole text. `model` is a WaveModel.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from .embeddings_wave import WaveTokens
from .ops_wave import Summary, merge, summarise, widen


def needs_chunks(model: Any, tokens: WaveTokens) -> bool:
    """Whether a text is longer than a chunk. Gradients, active dropout, graphs and packed texts need one pass."""
    length = model.config.chunk_length
    if length is None or tokens.shape[1] <= length or tokens.cu_seq_lens is not None:
        return False
    return not (torch.is_grad_enabled() or torch.compiler.is_compiling() or has_dropout(model))


def has_dropout(model: Any) -> bool:
    """Whether dropout is active. Chunks are read several times, and each reading would draw another one."""
    if model.embeddings.training and model.config.token_dropout_prob > 0:
        return True
    return any(isinstance(part, nn.Dropout) and part.training and part.p > 0 for part in model.modules())


def read_chunks(model: Any, tokens: WaveTokens) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
    """The hidden states (B, chunk, D) of long texts, and their mask (B, chunk) or None, chunk by chunk."""
    embeddings = model.embeddings
    if tokens.position_ids is None and model.config.position_embedding_type != "none":
        tokens = replace(tokens, position_ids=embeddings.count_positions(tokens))
    tokens = replace(tokens, ngram_ids_BLN=embeddings.find_ngrams(tokens))
    summaries: list[Summary] = []
    for layer in model.layers:
        summary = None
        for start, hidden_states, mask_BL in run_layers(model, tokens, summaries):
            part = summarise(widen(layer.mixing.variants(hidden_states), mask_BL).square(), mask_BL).move(start)
            summary = part if summary is None else merge(summary, part)
        summaries.append(summary)
    for _, hidden_states, mask_BL in run_layers(model, tokens, summaries):
        yield hidden_states, mask_BL


def run_layers(
    model: Any, tokens: WaveTokens, summaries: list[Summary]
) -> Iterator[tuple[int, torch.Tensor, torch.Tensor | None]]:
    """Each chunk through as many layers as there are summaries: where it starts, its hidden states and its mask."""
    reach, size = model.embeddings.reach, model.config.chunk_length
    for start in range(0, tokens.shape[1], size):
        stop, left = min(start + size, tokens.shape[1]), max(0, start - reach)
        hidden_states = model.embeddings(tokens.slice(left, stop + reach))[:, start - left : stop - left]
        mask_BL = None if tokens.mask_BL is None else tokens.mask_BL[:, start:stop]
        for layer, summary in zip(model.layers, summaries, strict=False):
            hidden_states = layer(hidden_states, mask_BL, None, summary.move(-start))
        yield start, hidden_states, mask_BL
