"""WaveConfig: what it fixes, what it refuses and how it says so, and what it writes beside the weights."""

import json
import logging
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, BertConfig
from transformers.dynamic_module_utils import get_imports, get_relative_imports

from wave_network import WaveConfig, WaveForSequenceClassification, WaveModel
from wave_network.configuration.configuration_wave import AUTO_MAP

# Each mode with its choices, default first where the paper or the issue fixes it.
CHOICES = {
    "wave_operation": ("modulation", "interference"),
    "magnitude": ("l2", "rms"),
    "restore": ("linear", "magnitude"),
    "position_embedding_type": ("sinusoidal", "absolute", "none"),
    "classifier_pooling": ("mean", "cls", "max", "opening", "segments"),
}

# What configurations of transformers carry, now or in older checkpoints, and what its loaders pass on.
USUAL = {
    "num_labels": 7,
    "label2id": {"no": 0, "yes": 1},
    "torch_dtype": "float32",
    "name_or_path": "user/repo",
    "_commit_hash": "0123456",
    "_attn_implementation": "eager",
    "attn_implementation": "eager",
    "quantization_config": {"load_in_8bit": True},
    "finetuning_task": "mnli",
    "torchscript": False,
    "chunk_size_feed_forward": 0,
    "gradient_checkpointing": False,
    "sep_token_id": 3,
    "decoder_start_token_id": 2,
    "num_attention_heads": 12,
    "attention_probs_dropout_prob": 0.1,
    "temperature": 1.0,
    "trust_remote_code": True,
    "my_own_note": "kept",
}


def test_the_defaults_are_the_papers_single_layer_model():
    config = WaveConfig()
    assert config.model_type == "wave"
    expected = {
        "vocab_size": 30522,
        "hidden_size": 768,
        "num_hidden_layers": 1,
        "wave_operation": "modulation",
        "magnitude": "l2",
        "restore": "linear",
        "intermediate_size": None,
        "type_vocab_size": 0,
        "classifier_pooling": "mean",
    }
    assert {name: getattr(config, name) for name in expected} == expected


def test_the_default_epsilon_leaves_float16_finite():
    """LayerNorm's backward keeps 1 / sqrt(variance + epsilon), and for a row of zeros the variance is 0."""
    assert WaveConfig().layer_norm_eps ** -0.5 < torch.finfo(torch.float16).max


def test_json_gives_the_same_configuration_back(tmp_path):
    config = WaveConfig(
        vocab_size=99,
        hidden_size=24,
        num_hidden_layers=2,
        wave_operation="interference",
        magnitude="rms",
        restore="magnitude",
        intermediate_size=32,
        hidden_act="relu",
        position_embedding_type="absolute",
        max_position_embeddings=17,
        type_vocab_size=2,
        hidden_dropout_prob=0.25,
        classifier_dropout=0.5,
        classifier_pooling="max",
        initializer_range=0.3,
        layer_norm_eps=1e-6,
        pad_token_id=3,
        id2label={0: "sad", 1: "glad"},
        label2id={"sad": 0, "glad": 1},
    )
    config.save_pretrained(tmp_path)
    loaded = WaveConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() == config.to_dict()
    assert loaded.num_labels == 2
    assert isinstance(AutoConfig.from_pretrained(tmp_path), WaveConfig)
    assert WaveConfig.from_dict(json.loads(config.to_json_string())).to_dict() == config.to_dict()


# --- What is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["nonsense", None, "MEAN"])
@pytest.mark.parametrize("name", CHOICES)
def test_a_wrong_mode_names_field_value_and_choices(name, value):
    with pytest.raises(StrictDataclassError) as caught:
        WaveConfig(**{name: value})
    message = str(caught.value)
    assert all(word in message for word in (name, str(value), *CHOICES[name]))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"vocab_size": 0}, ["vocab_size", "0", "at least 1"]),
        ({"hidden_size": 7.5}, ["hidden_size", "7.5", "int"]),
        ({"hidden_size": "768"}, ["hidden_size", "768", "int"]),
        ({"type_vocab_size": -1}, ["type_vocab_size", "-1", "at least 0"]),
        ({"hidden_dropout_prob": 1.5}, ["hidden_dropout_prob", "1.5", "between 0 and 1"]),
        ({"hidden_dropout_prob": -0.1}, ["hidden_dropout_prob", "-0.1", "between 0 and 1"]),
        ({"classifier_dropout": 2}, ["classifier_dropout", "2", "between 0 and 1"]),
        ({"initializer_range": 0.0}, ["initializer_range", "0.0", "greater than 0"]),
        ({"initializer_range": float("nan")}, ["initializer_range", "nan", "greater than 0"]),
        ({"layer_norm_eps": -1e-5}, ["layer_norm_eps", "-1e-05", "greater than 0"]),
        ({"conv_kernel_size": 4}, ["conv_kernel_size", "odd", "at least 3", "4"]),
        ({"conv_kernel_size": 1}, ["conv_kernel_size", "odd", "at least 3", "1"]),
        ({"ngram_vocab_size": 1}, ["ngram_vocab_size", "2^24", "got 1"]),
        ({"ngram_vocab_size": 2**24 + 1}, ["ngram_vocab_size", "got 16777217"]),
        ({"ngram_size": 1}, ["ngram_size", "at least 2", "got 1"]),
        ({"classifier_temperature": 0.0}, ["classifier_temperature", "greater than 0", "0.0"]),
        ({"classifier_temperature": float("inf")}, ["classifier_temperature", "finite", "inf"]),
        ({"hidden_act": "gelou"}, ["hidden_act", "gelou", "'gelu'", "'relu'"]),
        ({"pad_token_id": 50, "vocab_size": 50}, ["pad_token_id", "50", "below"]),
        ({"pad_token_id": -1}, ["pad_token_id", "-1", "30522"]),
        (
            {"hidden_size": 7, "position_embedding_type": "sinusoidal"},
            ["hidden_size", "7", "even", "'absolute'", "'none'"],
        ),
    ],
    ids=str,
)
def test_a_wrong_size_or_rate_names_field_value_and_what_is_allowed(settings, words):
    with pytest.raises(StrictDataclassError) as caught:
        WaveConfig(**settings)
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize("kind", ["absolute", "none"])
def test_an_odd_width_is_fine_without_sinusoids(kind):
    assert WaveConfig(hidden_size=7, position_embedding_type=kind).hidden_size == 7


@pytest.mark.parametrize(
    ("misspelt", "meant"),
    [
        ("hiden_size", "hidden_size"),
        ("num_layers", "num_hidden_layers"),
        ("operation", "wave_operation"),
        ("pooling", "classifier_pooling"),
        ("dropout", "hidden_dropout_prob"),
        ("classifier_dropout_prob", "classifier_dropout"),
        ("layer_norm", "layer_norm_eps"),
        ("position_embeddings_type", "position_embedding_type"),
        ("vocab", "vocab_size"),
        ("initialiser_range", "initializer_range"),
        ("token_dropout", "token_dropout_prob"),
    ],
)
def test_a_misspelt_keyword_is_refused_with_what_was_meant(misspelt, meant):
    with pytest.raises(TypeError) as caught:
        WaveConfig(**{misspelt: "typed"})
    assert all(word in str(caught.value) for word in (f"`{misspelt}`", "'typed'", f"`{meant}`"))


def test_what_was_set_on_a_config_and_saved_with_it_is_told_and_kept(tmp_path, caplog):
    config = WaveConfig(hidden_size=8)
    config.pooling = "mean"
    config.save_pretrained(tmp_path)
    logging.getLogger("transformers").addHandler(caplog.handler)
    try:
        assert WaveConfig.from_pretrained(tmp_path).pooling == "mean"
    finally:
        logging.getLogger("transformers").removeHandler(caplog.handler)
    assert "no field `pooling` (got 'mean'). Did you mean `classifier_pooling`?" in caplog.text


def test_unknown_keywords_are_kept_as_everywhere_in_transformers():
    assert WaveConfig(**USUAL).my_own_note == "kept"


def test_fields_of_the_first_version_are_ignored_or_refused_in_one_line():
    settings = WaveConfig().to_dict()
    assert not hasattr(WaveConfig.from_dict(settings | {"folded": False}), "folded")
    with pytest.raises(ValueError, match=r"^`folded` must be False, got True\. [^\n]*$"):
        WaveConfig.from_dict(settings | {"folded": True})
    with pytest.raises(StrictDataclassError, match=r"'restore' expected one of \('linear', 'magnitude'\), got real"):
        WaveConfig.from_dict(settings | {"restore": "real"})


def test_the_configuration_of_another_model_passes():
    settings = BertConfig().to_dict()
    del settings["model_type"]
    assert WaveConfig(**settings).hidden_size == 768


# --- What is saved ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model", [None, WaveModel, WaveForSequenceClassification], ids=["config", "body", "classifier"]
)
def test_every_save_names_every_auto_class(tmp_path, model):
    config = WaveConfig(vocab_size=20, hidden_size=8)
    (config if model is None else model(config)).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["auto_map"] == AUTO_MAP


def test_a_copy_does_not_refer_to_the_repository_it_came_from(tmp_path):
    """transformers writes `user/repo--module.Class` into what it loads from the Hub."""
    config = WaveConfig(auto_map={"AutoConfig": "user/repo--configuration_wave.WaveConfig"})
    assert config.auto_map == AUTO_MAP
    settings = config.to_dict() | {"auto_map": {name: f"user/repo--{value}" for name, value in AUTO_MAP.items()}}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    WaveConfig.from_pretrained(tmp_path).save_pretrained(tmp_path / "copy")
    assert json.loads((tmp_path / "copy" / "config.json").read_text())["auto_map"] == AUTO_MAP


def test_the_configurations_map_is_its_own():
    config = WaveConfig()
    config.auto_map["AutoConfig"] = "changed"
    assert WaveConfig().auto_map == AUTO_MAP
    assert AUTO_MAP["AutoConfig"] != "changed"


def test_the_saved_code_is_flat_and_needs_torch_and_transformers_alone(tmp_path):
    WaveConfig().save_pretrained(tmp_path)
    files = sorted(tmp_path.glob("*.py"))
    modules = {file.stem for file in files}
    assert {value.split(".")[0] for value in AUTO_MAP.values()} <= modules
    # As transformers itself finds them, before it runs the code of a repository.
    followed = set()
    for file in files:
        relative = set(get_relative_imports(file))
        assert relative <= modules
        followed |= relative
        packages = {name.split(".")[0] for name in get_imports(file)} - set(sys.stdlib_module_names)
        # transformers itself requires the last two.
        assert packages <= {"torch", "transformers", "huggingface_hub", "safetensors"}
        assert "from .." not in Path(file).read_text(encoding="utf-8")
    # Each file is an entry of the map, or is reached from one.
    assert modules == followed | {value.split(".")[0] for value in AUTO_MAP.values()}


def test_a_save_writes_nothing_beside_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    WaveConfig().save_pretrained("run/checkpoint-5")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert [path.name for path in Path("run").iterdir()] == ["checkpoint-5"]
