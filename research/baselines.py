"""What the Wave Network is compared with in docs/results.md, trained through the same `finetune`.

A run of a baseline leaves its record and no model. FNet has no mask: it mixes padding into its results.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    FNetConfig,
    FNetForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers import initialization as init
from transformers.modeling_outputs import SequenceClassifierOutput

from wave_network.configuration import WaveConfig
from wave_network.data.load import TextData
from wave_network.files import describe_run, write_json
from wave_network.modeling_wave import WaveForSequenceClassification, WavePreTrainedModel
from wave_network.modeling_wave.modeling_wave import WaveMixing
from wave_network.modeling_wave.ops_wave import amplitude, lift
from wave_network.training.settings import ModelArguments


class NoPhase(WaveMixing):
    """Each wave is its magnitude, which under `magnitude="l2"` is the same for all tokens of a text."""

    def forward(self, hidden_states, mask_BL=None, cu_seq_lens=None, summary=None):
        halves = self.variants(hidden_states).chunk(2, dim=-1)
        return self.superpose_real(
            *(amplitude(lift(w_BLD, mask_BL, self.config.magnitude, cu_seq_lens)) for w_BLD in halves)
        )

    def superpose_real(self, w_BLD: torch.Tensor, w2_BLD: torch.Tensor) -> torch.Tensor:
        """Two waves without imaginary parts, superposed, and back."""
        re_BLD = w_BLD * w2_BLD if self.config.wave_operation == "modulation" else w_BLD + w2_BLD
        return self.return_real(torch.cat([re_BLD, torch.zeros_like(re_BLD)], dim=-1))


class NoContext(NoPhase):
    """Each wave is its real part, the token itself: nothing from the rest of the text."""

    def forward(self, hidden_states, mask_BL=None, cu_seq_lens=None, summary=None):
        return self.superpose_real(*self.variants(hidden_states).chunk(2, dim=-1))


class Bag(WaveMixing):
    """
    A feed-forward block with the maps of the wave, nothing from the rest of the text: up and down, or, without a map
    back, a gated linear unit (arXiv 2002.05202).
    """

    def forward(self, hidden_states, mask_BL=None, cu_seq_lens=None, summary=None):
        variants_BLE = self.variants(hidden_states)
        if self.config.restore == "linear":
            return self.restore(nn.functional.gelu(variants_BLE))
        gate_BLD, value_BLD = variants_BLE.chunk(2, dim=-1)
        return nn.functional.gelu(gate_BLD) * value_BLD


class ConvolutionalNetwork(WavePreTrainedModel):
    """
    Convolutions over 3, 4 and 5 tokens, 100 maps each, and the largest value of each map over the text: the model of
    Kim (arXiv 1408.5882), without its bound on the classifier's norm.
    """

    _input_embed_layer = "word_embeddings"
    maps = 100

    def __init__(self, config: WaveConfig):
        super().__init__(config)
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        # As many zeros around a text as a window is wide, so that padding changes nothing.
        self.convolutions = nn.ModuleList(
            nn.Conv1d(config.hidden_size, self.maps, width, padding=width) for width in (3, 4, 5)
        )
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.classifier = nn.Linear(3 * self.maps, config.num_labels)
        self.post_init()

    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, nn.Embedding):  # as Kim draws them
            init.uniform_(module.weight, -0.25, 0.25)
            if module.padding_idx is not None:
                init.zeros_(module.weight[module.padding_idx])

    def forward(self, input_ids=None, attention_mask=None, labels=None) -> SequenceClassifierOutput:
        words_BLD = self.word_embeddings(input_ids)
        if attention_mask is not None:
            words_BLD = words_BLD.masked_fill(attention_mask[..., None] == 0, 0)
        maps = [convolution(words_BLD.transpose(1, 2)).relu().amax(dim=-1) for convolution in self.convolutions]
        logits = self.classifier(self.dropout(torch.cat(maps, dim=-1)))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


def replace_mixing(mixing: type[WaveMixing]) -> Callable[[WaveConfig], PreTrainedModel]:
    """A Wave Network with another operation between the same maps, which start from the same weights."""

    def make(config: WaveConfig) -> PreTrainedModel:
        model = WaveForSequenceClassification(config)
        for layer in model.wave.layers:
            layer.mixing.__class__ = mixing
        return model

    return make


def make_fasttext(config: WaveConfig) -> PreTrainedModel:
    """A linear classifier on the mean of the embeddings of words and n-grams, as in fastText (arXiv 1607.01759)."""
    model = WaveForSequenceClassification(WaveConfig.from_dict(config.to_dict() | {"position_embedding_type": "none"}))
    model.wave.layers = nn.ModuleList()
    return model


# The config of each kind, and what makes the model.
KINDS: dict[str, tuple[type, Callable[[Any], PreTrainedModel]]] = {
    "wave": (WaveConfig, WaveForSequenceClassification),
    "no_phase": (WaveConfig, replace_mixing(NoPhase)),
    "no_context": (WaveConfig, replace_mixing(NoContext)),
    "bag": (WaveConfig, replace_mixing(Bag)),
    "fasttext": (WaveConfig, make_fasttext),
    "cnn": (WaveConfig, ConvolutionalNetwork),
    "transformer": (BertConfig, BertForSequenceClassification),
    "fnet": (FNetConfig, FNetForSequenceClassification),
}


def choose_maker(kind: str, others: Mapping[str, Any]) -> Callable[..., PreTrainedModel]:
    """What `finetune` takes as `make_model`: a model of a kind, with fields of its config beyond `ModelArguments`."""
    config_class, make = KINDS[kind]

    def make_model(
        arguments: ModelArguments, tokenizer: PreTrainedTokenizerBase, label_names: Sequence[str]
    ) -> PreTrainedModel:
        settings = {name: value for name, value in vars(arguments).items() if value is not None}
        settings.setdefault("hidden_dropout_prob", WaveConfig.hidden_dropout_prob)
        if config_class is not WaveConfig:
            settings["intermediate_size"] = 4 * arguments.hidden_size
        settings = {name: value for name, value in settings.items() if hasattr(config_class, name)}
        settings |= {
            "vocab_size": len(tokenizer),
            "max_position_embeddings": tokenizer.model_max_length,
            "pad_token_id": tokenizer.pad_token_id,
            "id2label": dict(enumerate(label_names)),
            "label2id": {name: index for index, name in enumerate(label_names)},
            "problem_type": "single_label_classification",
        }
        if config_class is WaveConfig:
            settings["conv_kernel_size"] = arguments.conv_kernel_size or None
        return make(config_class(**settings | dict(others)))

    make_model.__qualname__ = kind  # what the record of a run says
    return make_model


def train_svm(data: TextData, folder: Path, seed: int) -> None:
    """
    TF-IDF of words and pairs of words, and a linear SVM with scikit-learn's defaults. It chooses nothing by validation,
    so it learns from those rows too. Writes a `metrics.json` with what a run of `finetune` would say.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.metrics import accuracy_score, f1_score
    from sklearn.pipeline import make_pipeline
    from sklearn.svm import LinearSVC

    if data.test is None:
        raise ValueError(f"The data set {data.name!r} must have a test split with labels.")
    start = time.perf_counter()
    texts, labels = ([*data.train[name], *data.validation[name]] for name in ("text", "label"))
    classifier = LinearSVC(random_state=seed)
    model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), classifier).fit(texts, labels)
    predicted, expected = model.predict(data.test["text"]), data.test["label"]
    splits = {"train": data.train, "validation": data.validation, "test": data.test}
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "duration_seconds": round(time.perf_counter() - start, 1),
        "device": describe_run()["device"],
        "data": {
            "fingerprint": data.fingerprint,
            "is_on_hub": data.is_on_hub,
            "rows": {name: len(split) for name, split in splits.items()},
        },
        "model": {"parameters": int(classifier.coef_.size + classifier.intercept_.size)},
        "results": {
            "test": {
                "accuracy": accuracy_score(expected, predicted),
                "macro_f1": f1_score(expected, predicted, average="macro"),
            }
        },
    }
    write_json(folder / "metrics.json", record)
