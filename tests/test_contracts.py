"""What others rely on: names of weights, public names, files on the Hub, and which module may import which."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForMultipleChoice,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertTokenizer,
)
from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING

import wave_network
from wave_network import WaveConfig, WaveForSequenceClassification, WaveModel

ROOT = Path(wave_network.__file__).parent
BELOW = ("configuration", "modeling_wave", "tokenization")
ABOVE = ("training", "hub_card", "export", "analysis", "research")

# Which modules of ours a module may import. What is not listed here stands above the model.
MAY_IMPORT = {
    "configuration.configuration_wave": set(),
    "configuration": {"configuration.configuration_wave"},
    "modeling_wave.ops_wave": set(),
    "modeling_wave.triton_wave": set(),
    "modeling_wave.fused_wave": {"modeling_wave.ops_wave", "modeling_wave.triton_wave"},
    "modeling_wave.pooling_wave": {"modeling_wave.ops_wave"},
    "modeling_wave.embeddings_wave": {"configuration.configuration_wave", "modeling_wave.ops_wave"},
    "modeling_wave.modeling_wave": {
        "configuration.configuration_wave",
        "modeling_wave.ops_wave",
        "modeling_wave.fused_wave",
        "modeling_wave.pooling_wave",
        "modeling_wave.embeddings_wave",
    },
    "modeling_wave": {"modeling_wave.modeling_wave"},
    "tokenization.tokenization_wave": set(),
    "tokenization": {"tokenization.tokenization_wave"},
    "": set(BELOW),
}
# The command line joins the rooms: train, then draw, then write the card. Nothing else does.
JOINS = "training.cli"


def modules() -> dict[str, Path]:
    """Every module of the package, by its dotted name below `wave_network` ("" is the package itself)."""
    found = {"": ROOT / "__init__.py"}
    for room in (*BELOW, *ABOVE):
        for file in sorted((ROOT / room).glob("*.py")):
            found[room if file.name == "__init__.py" else f"{room}.{file.stem}"] = file
    return found


def imports(name: str, file: Path) -> Iterator[str]:
    """The dotted names that a module imports anywhere, also inside functions; relative ones made absolute."""
    package = ["wave_network", *name.split(".")] if name else ["wave_network"]
    if file.name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            # `from . import x` may name a module; `from .module import x` names something in it.
            yield from ([source] if node.module else (f"{source}.{alias.name}" for alias in node.names))


def ours(name: str, file: Path) -> set[str]:
    """The modules of `wave_network` that a module imports, by their names below it."""
    found = {imported for imported in imports(name, file) if imported.split(".")[0] == "wave_network"}
    return {imported.removeprefix("wave_network").strip(".") for imported in found}


def test_state_dict_keys_are_what_checkpoints_hold():
    with torch.device("meta"):
        model = WaveForSequenceClassification(WaveConfig(position_embedding_type="sinusoidal", num_labels=4))
    assert {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()} == {
        "wave.embeddings.word_embeddings.weight": (30522, 768),
        "wave.layers.0.mixing.variants.weight": (1536, 768),
        "wave.layers.0.mixing.variants.bias": (1536,),
        "wave.layers.0.mixing.restore.weight": (768, 1536),
        "wave.layers.0.mixing.restore.bias": (768,),
        "wave.layers.0.mixing_norm.weight": (768,),
        "wave.layers.0.mixing_norm.bias": (768,),
        "classifier.weight": (4, 768),
        "classifier.bias": (4,),
    }


def test_optional_parts_add_these_keys():
    plain = {"vocab_size": 20, "hidden_size": 8, "position_embedding_type": "none"}
    full = plain | {"position_embedding_type": "absolute", "type_vocab_size": 2, "intermediate_size": 12}
    full |= {"conv_kernel_size": 3}
    keys, more = (set(WaveModel(WaveConfig(**settings)).state_dict()) for settings in (plain, full))
    assert more - keys == {
        "embeddings.convolution.weight",
        "embeddings.position_embeddings.weight",
        "embeddings.token_type_embeddings.weight",
        "layers.0.feed_forward.up.weight",
        "layers.0.feed_forward.up.bias",
        "layers.0.feed_forward.down.weight",
        "layers.0.feed_forward.down.bias",
        "layers.0.feed_forward_norm.weight",
        "layers.0.feed_forward_norm.bias",
    }
    assert keys < more


def test_heads_add_these_keys():
    config = WaveConfig(vocab_size=20, hidden_size=8)
    body = {f"wave.{name}" for name in WaveModel(config).state_dict()}
    added = {
        wave_network.WaveForMaskedLM: {"transform.weight", "transform.bias", "norm.weight", "norm.bias"}
        | {"decoder.weight", "decoder.bias"},
        wave_network.WaveForMultipleChoice: {"classifier.weight", "classifier.bias"},
        wave_network.WaveForQuestionAnswering: {"qa_outputs.weight", "qa_outputs.bias"},
        wave_network.WaveForTokenClassification: {"classifier.weight", "classifier.bias"},
    }
    for cls, names in added.items():
        assert set(cls(config).state_dict()) - body == names
        assert body <= set(cls(config).state_dict())


def test_public_names():
    assert wave_network.__all__ == [
        "WaveConfig",
        "WaveForMaskedLM",
        "WaveForMultipleChoice",
        "WaveForQuestionAnswering",
        "WaveForSequenceClassification",
        "WaveForTokenClassification",
        "WaveModel",
        "WavePreTrainedModel",
        "load_wave_tokenizer",
        "train_wave_tokenizer",
    ]
    assert all(hasattr(wave_network, name) for name in wave_network.__all__)
    assert (ROOT / "py.typed").exists()


def test_a_checkpoint_holds_exactly_these_files(tmp_path):
    model = WaveForSequenceClassification(WaveConfig(vocab_size=20, hidden_size=8))
    model.save_pretrained(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "README.md",
        "config.json",
        "configuration_wave.py",
        "embeddings_wave.py",
        "fused_wave.py",
        "model.safetensors",
        "modeling_wave.py",
        "ops_wave.py",
        "pooling_wave.py",
        "triton_wave.py",
    ]


def test_importing_the_package_registers_the_auto_classes():
    config = AutoConfig.for_model("wave", vocab_size=20, hidden_size=8)
    assert type(config) is WaveConfig
    assert type(AutoModel.from_config(config)) is WaveModel
    for auto_class in (
        AutoModelForMaskedLM,
        AutoModelForMultipleChoice,
        AutoModelForQuestionAnswering,
        AutoModelForSequenceClassification,
        AutoModelForTokenClassification,
    ):
        name = auto_class.__name__.replace("AutoModel", "Wave")
        assert type(auto_class.from_config(config)) is getattr(wave_network, name)
        assert config.auto_map[auto_class.__name__] == f"modeling_wave.{name}"
    assert TOKENIZER_MAPPING[WaveConfig] is BertTokenizer


@pytest.mark.parametrize("name", modules())
def test_who_may_import_whom(name):
    imported = ours(name, modules()[name])
    if name in MAY_IMPORT:
        assert imported <= MAY_IMPORT[name]
        return
    room = name.split(".")[0]
    assert room in ABOVE, f"{name} is a module that this test does not know"
    if name == JOINS:
        return
    others = {other for other in imported if other.split(".")[0] in ABOVE and other.split(".")[0] != room}
    if room == "research":  # it measures what the others do
        return
    assert others <= {"training.data"}


def test_the_walk_finds_imports_of_every_form(tmp_path):
    """What the test above stands on: it must not pass because it sees nothing."""
    file = tmp_path / "card.py"
    file.write_text(
        "import os, wave_network.training.data\n"
        "from .. import analysis\n"
        "from ..training.finetune import a, b\n"
        "from .push import c\n"
        "from . import other\n"
        "def inside():\n    from wave_network import WaveConfig\n"
    )
    expected = {"training.data", "analysis", "training.finetune", "hub_card.push", "hub_card.other", ""}
    assert ours("hub_card.card", file) == expected
    assert "os" in set(imports("hub_card.card", file))
    known = modules()
    assert ours("modeling_wave.modeling_wave", known["modeling_wave.modeling_wave"])
    assert set(MAY_IMPORT) <= set(known)


def test_only_the_analysis_room_imports_matplotlib():
    for name, file in modules().items():
        plots = any(imported.split(".")[0] == "matplotlib" for imported in imports(name, file))
        assert not plots or name.split(".")[0] == "analysis", name


def list_loaded(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*{{name.split('.')[0] for name in sys.modules}})"
    return set(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split())


def test_importing_the_package_loads_nothing_that_only_training_needs():
    # Some versions of transformers load some of them themselves.
    theirs = list_loaded("from transformers import AutoModelForSequenceClassification, BertTokenizer, PreTrainedModel")
    loaded = list_loaded("import wave_network")
    assert {"torch", "wave_network"} <= loaded
    heavy = {"matplotlib", "datasets", "evaluate", "sklearn", "peft", "sentence_transformers"}
    assert not heavy & (loaded - theirs)
