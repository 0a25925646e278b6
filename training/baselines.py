"""What the Wave Network is compared with in docs/reproduction.md, on the same rows and through the same `finetune`.

These models live here alone: they are neither public names nor code of a checkpoint, and a run of one leaves its record
and no model. FNet has no mask: padding is mixed into its results, and `group_by_length` keeps it short.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    FNetConfig,
    FNetForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers import initialization as init
from transformers.modeling_outputs import SequenceClassifierOutput

from ..configuration import WaveConfig
from ..modeling_wave import WaveForSequenceClassification, WavePreTrainedModel
from ..modeling_wave.embeddings_wave import WaveDropout, WaveEmbeddings, WaveTokens
from ..modeling_wave.modeling_wave import WaveMixing
from ..modeling_wave.ops_wave import amplitude, lift
from ..modeling_wave.pooling_wave import pool
from .data import TextData
from .finetune import get_model
from .metrics import ClassificationReport, confusion_counts
from .record import METRICS_SCHEMA, describe_data, describe_device, get_versions, write_atomically
from .settings import ModelArguments, RunArguments


class NoPhase(WaveMixing):
    """Each wave is its magnitude, which under `magnitude="l2"` is the same for all tokens of a text."""

    def forward(self, hidden_states, mask_BL=None, cu_seq_lens=None, summary=None):
        magnitude = self.config.magnitude
        g_BLD, g2_BLD = (
            amplitude(lift(w_BLD, mask_BL, magnitude, cu_seq_lens))
            for w_BLD in self.variants(hidden_states).chunk(2, dim=-1)
        )
        return self.superpose_real(g_BLD, g2_BLD)

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
    A feed-forward block with the same maps, nothing from the rest of the text: up and down, or, where the wave has no
    map back, a gated linear unit (arXiv 2002.05202).
    """

    def forward(self, hidden_states, mask_BL=None, cu_seq_lens=None, summary=None):
        variants_BLE = self.variants(hidden_states)
        if self.config.restore == "linear":
            return self.restore(nn.functional.gelu(variants_BLE))
        gate_BLD, value_BLD = variants_BLE.chunk(2, dim=-1)
        return nn.functional.gelu(gate_BLD) * value_BLD


class MeanOfEmbeddings(WavePreTrainedModel):
    """A linear classifier on the mean of the embeddings of words and n-grams, as in fastText (arXiv 1607.01759)."""

    accepts_loss_kwargs = False
    _input_embed_layer = "word_embeddings"

    def __init__(self, config: WaveConfig):
        super().__init__(config)
        self.embeddings = WaveEmbeddings(config)
        self.dropout = WaveDropout(config.hidden_dropout_prob)
        self.classifier = nn.Linear(config.hidden_size, cast(int, config.num_labels))
        self.post_init()

    def forward(self, input_ids=None, attention_mask=None, labels=None) -> SequenceClassifierOutput:
        tokens = WaveTokens.check(input_ids, attention_mask)
        pooled_BD = pool([(self.embeddings(tokens), tokens.mask_BL)], "mean")
        logits = self.classifier(self.dropout(pooled_BD))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


class ConvolutionalNetwork(WavePreTrainedModel):
    """
    Convolutions over 3, 4 and 5 tokens, 100 maps each, and the largest value of each map over the text, with dropout
    before the classifier alone: the model of Kim (arXiv 1408.5882), without its bound on the classifier's norm.
    """

    accepts_loss_kwargs = False
    _input_embed_layer = "word_embeddings"
    maps = 100

    def __init__(self, config: WaveConfig):
        super().__init__(config)
        self.embeddings = WaveEmbeddings(config)
        self.embeddings.dropout = WaveDropout(0.0)
        # As many zeros around each text as there are in a window: one of zeros alone has the value of its bias, in a
        # text without padding too.
        self.convolutions = nn.ModuleList(
            nn.Conv1d(config.hidden_size, self.maps, width, padding=width) for width in (3, 4, 5)
        )
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.classifier = nn.Linear(3 * self.maps, cast(int, config.num_labels))
        self.post_init()

    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, nn.Embedding):  # drawn as his are
            init.uniform_(module.weight, -0.25, 0.25)
            if module.padding_idx is not None:
                init.zeros_(module.weight[module.padding_idx])

    def forward(self, input_ids=None, attention_mask=None, labels=None) -> SequenceClassifierOutput:
        tokens = WaveTokens.check(input_ids, attention_mask)
        embeddings_BLD = self.embeddings(tokens)
        if tokens.mask_BL is not None:
            embeddings_BLD = embeddings_BLD.masked_fill(~tokens.mask_BL[..., None], 0)
        maps = [convolution(embeddings_BLD.transpose(1, 2)).relu().amax(dim=-1) for convolution in self.convolutions]
        logits = self.classifier(self.dropout(torch.cat(maps, dim=-1)))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


def make_wave(config: WaveConfig) -> PreTrainedModel:
    return WaveForSequenceClassification(config)


def make_fasttext(config: WaveConfig) -> PreTrainedModel:
    return MeanOfEmbeddings(WaveConfig.from_dict(config.to_dict() | {"position_embedding_type": "none"}))


def make_cnn(config: WaveConfig) -> PreTrainedModel:
    return ConvolutionalNetwork(WaveConfig.from_dict(config.to_dict() | {"position_embedding_type": "none"}))


def replace_mixing(mixing: type[WaveMixing]) -> Callable[[WaveConfig], PreTrainedModel]:
    """A Wave Network with other operations between the same maps, which start from the same weights."""

    def make(config: WaveConfig) -> PreTrainedModel:
        model = WaveForSequenceClassification(config)
        for layer in model.wave.layers:
            with torch.device("meta"):
                replaced = mixing(config)
            replaced.load_state_dict(cast(WaveMixing, layer.mixing).state_dict(), assign=True)
            layer.mixing = replaced
        return model

    return make


def make_transformer(config: BertConfig) -> PreTrainedModel:
    return BertForSequenceClassification(config)


def make_fnet(config: FNetConfig) -> PreTrainedModel:
    return FNetForSequenceClassification(config)


# The config of each kind, and what makes the model.
KINDS: dict[str, tuple[type[PreTrainedConfig], Callable[[Any], PreTrainedModel]]] = {
    "wave": (WaveConfig, make_wave),
    "fasttext": (WaveConfig, make_fasttext),
    "no_phase": (WaveConfig, replace_mixing(NoPhase)),
    "no_context": (WaveConfig, replace_mixing(NoContext)),
    "bag": (WaveConfig, replace_mixing(Bag)),
    "transformer": (BertConfig, make_transformer),
    "fnet": (FNetConfig, make_fnet),
    "cnn": (WaveConfig, make_cnn),
}


@dataclass(frozen=True)
class ModelMaker:
    """What `finetune` takes as `make_model`: a model of a kind, with fields of its config beyond `ModelArguments`."""

    kind: str
    config: Mapping[str, Any]

    def __call__(
        self, model_arguments: ModelArguments, tokenizer: PreTrainedTokenizerBase, label_names: Sequence[str]
    ) -> PreTrainedModel:
        config_class, make = KINDS[self.kind]
        with torch.device("meta"):
            wave = get_model(replace(model_arguments, model=None), tokenizer, label_names).config
        if config_class is WaveConfig:
            return make(WaveConfig.from_dict(wave.to_dict() | dict(self.config)))
        known = {name: value for name, value in asdict(model_arguments).items() if value is not None}
        known = {name: value for name, value in known.items() if hasattr(config_class, name)}
        settings = {
            "intermediate_size": 4 * model_arguments.hidden_size,
            **known,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": tokenizer.model_max_length,
            "pad_token_id": tokenizer.pad_token_id,
            "id2label": wave.id2label,
            "label2id": wave.label2id,
            "problem_type": wave.problem_type,
        }
        return make(config_class(**settings | dict(self.config)))


def train_svm(data: TextData, folder: Path, seed: int) -> None:
    """
    TF-IDF of words and pairs of words, and a linear SVM with scikit-learn's defaults. It has nothing to choose by
    validation, and learns from those rows too. Leaves `metrics.json`, with what applies of a run of `finetune`.
    """
    start = time.perf_counter()
    if data.test is None:
        raise ValueError(f"{data.name!r} must have a test split with labels.")
    texts, labels = ([*data.train[name], *data.validation[name]] for name in ("text", "label"))
    vectorizer, classifier = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LinearSVC(random_state=seed)
    model = make_pipeline(vectorizer, classifier).fit(texts, labels)
    predicted, references = model.predict(data.test["text"]), data.test["label"]
    report = ClassificationReport().compute(predictions=predicted, references=references, label_names=data.label_names)
    record = {
        "schema": METRICS_SCHEMA,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "duration_seconds": round(time.perf_counter() - start, 1),
        "seed": seed,
        "device": describe_device(RunArguments(str(folder), use_cpu=True)),
        "versions": get_versions() | {"scikit_learn": version("scikit-learn")},
        "data": describe_data(data),
        "model": {"parameters": int(classifier.coef_.size + classifier.intercept_.size)},
        "settings": {"ngram_range": [1, 2], "sublinear_tf": True, "C": classifier.C},
        "results": {
            "test": {
                "rows": len(references),
                **report,
                "confusion": confusion_counts(predicted, references, len(data.label_names)),
            }
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "metrics.json", json.dumps(record, indent=2, ensure_ascii=False) + "\n")
