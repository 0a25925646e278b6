"""What others rely on: names of weights, public names, files of a checkpoint, which room may import which, and what is
loaded to run a model."""

import ast
import json
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
    PreTrainedTokenizerFast,
)
from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING

import wave_network
from wave_network import WaveConfig, WaveForSequenceClassification, WaveModel

ROOT = Path(wave_network.__file__).parent
# Imports point down, and sideways only inside a room.
FLOORS = {
    "files": 0,
    "data": 1,
    "modeling_wave": 1,
    "configuration": 1,
    "tokenization": 1,
    "training": 2,
    "inference": 2,
    "hub_card": 2,
    "analysis": 2,
    "api": 3,
    "cli": 4,
    "__main__": 5,
    "research": 5,
}
SIDEWAYS = {("modeling_wave", "configuration")}
# The private names of torch and transformers that the package uses: at most eight, where there is no public one.
PRIVATE = {
    "_are_functorch_transforms_active": "whether a transform of torch.func is at work",
    "_determine_best_metric": "of two equal epochs Trainer keeps the first, which has learned less",
    "_get_eval_sampler": "before transformers 5.16 each process has its own order of texts by length",
    "_get_output_dir": "where a checkpoint goes, which has the averaged weights beside it",
    "_get_train_sampler": "an order of texts by length that is the same after resuming",
    "_save_checkpoint": "a checkpoint holds the averaged weights",
}
# Names that their documentation tells authors of models, modules and arguments to define.
HOOKS = {
    "_argument_group_name",
    "_can_record_outputs",
    "_init_weights",
    "_input_embed_layer",
    "_load_from_state_dict",
    "_no_split_modules",
    "_replace",
    "_save_to_state_dict",
    "_tied_weights_keys",
}


def modules() -> dict[str, Path]:
    """Every module of the package and of research/, by its dotted name below `wave_network`."""
    found = {}
    for file in [*ROOT.glob("*.py"), *(file for room in FLOORS for file in (ROOT / room).glob("*.py"))]:
        parts = file.relative_to(ROOT).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = file
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
            yield source
            yield from (f"{source}.{alias.name}" for alias in node.names)


def find_ours(name: str, file: Path, known: set[str]) -> set[str]:
    """The modules of `wave_network` that a module imports, by their names below it; not its own package."""
    found = {imported.removeprefix("wave_network.") for imported in imports(name, file)}
    return {imported for imported in found & known if not f"{name}.".startswith(f"{imported}.")}


@pytest.mark.parametrize("name", sorted(name for name in modules() if name))
def test_imports_point_down(name):
    room, known = name.split(".")[0], modules()
    for imported in find_ours(name, known[name], set(known)):
        other = imported.split(".")[0]
        is_down = FLOORS[other] < FLOORS[room]
        assert is_down or other == room or (room, other) in SIDEWAYS, f"{name} imports {imported}"


def test_no_two_modules_import_each_other():
    known = modules()
    below = {name: find_ours(name, file, set(known)) for name, file in known.items() if name}
    while leaves := {name for name, imported in below.items() if not imported & set(below)}:
        below = {name: imported for name, imported in below.items() if name not in leaves}
    assert not below, f"a circle is among {sorted(below)}"


def test_the_walk_finds_imports_of_every_form(tmp_path):
    """What the tests above stand on: they must not pass because they see nothing."""
    file = tmp_path / "card.py"
    file.write_text(
        "import os, wave_network.training.finetune\n"
        "from .. import analysis\n"
        "from ..training.settings import a, b\n"
        "from .push import c\n"
        "from . import pictures\n"
        "def inside():\n    from wave_network import data\n"
    )
    known = {"training.finetune", "analysis", "training.settings", "hub_card.push", "hub_card.pictures", "data", "cli"}
    assert find_ours("hub_card.card", file, known) == known - {"cli"}
    assert {name.split(".")[0] for name in modules()} - {""} == set(FLOORS)


def find_private(tree: ast.AST) -> Iterator[str]:
    """Names with one underscore that a module takes from others: what it does not define itself."""
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    own |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    of_super = {
        node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "super()"
    }
    for node in ast.walk(tree):
        names = [node.attr] if isinstance(node, ast.Attribute) and ast.unparse(node.value) != "parser" else []
        if isinstance(node, ast.ImportFrom):
            names = [alias.name for alias in node.names] + (node.module or "").split(".")
        for name in names:
            is_private = name.startswith("_") and not name.startswith("__") and name != "_C"
            if is_private and (name not in own or name in of_super):
                yield name


def test_few_private_names_of_libraries_are_used():
    found = {
        name
        for module, file in modules().items()
        if not module.startswith("research")
        for name in find_private(ast.parse(file.read_text(encoding="utf-8")))
    }
    assert found - HOOKS == set(PRIVATE)
    assert len(PRIVATE) <= 8


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
    assert set(wave_network.__all__) == {
        "Classifier",
        "DistilArguments",
        "ENGLISH",
        "distil",
        "finetune",
        "load",
        "WaveConfig",
        "WaveForMaskedLM",
        "WaveForMultipleChoice",
        "WaveForQuestionAnswering",
        "WaveForSequenceClassification",
        "WaveForTokenClassification",
        "WaveModel",
        "WavePreTrainedModel",
        "load_wave_tokenizer",
        "register",
        "train_wave_tokenizer",
    }
    assert all(hasattr(wave_network, name) for name in wave_network.__all__)
    assert (ROOT / "py.typed").exists()


def test_a_checkpoint_holds_exactly_these_files(tmp_path):
    model = WaveForSequenceClassification(WaveConfig(vocab_size=20, hidden_size=8))
    model.save_pretrained(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "config.json",
        "configuration_wave.py",
        "documents_wave.py",
        "embeddings_wave.py",
        "fused_wave.py",
        "model.safetensors",
        "modeling_wave.py",
        "ops_wave.py",
        "pooling_wave.py",
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
    assert TOKENIZER_MAPPING[WaveConfig] is PreTrainedTokenizerFast


LOADED = """
import json, sys
import torch, transformers
def run(auto, folder):
    model = auto.from_pretrained(folder)
    model(torch.tensor([[1, 2, 3]]), labels=torch.tensor([1])).loss.backward()
    return {name.split(".")[0] for name in sys.modules}
bert = run(transformers.BertForSequenceClassification, sys.argv[1])
import wave_network
wave = run(transformers.AutoModelForSequenceClassification, sys.argv[2])
print(json.dumps(sorted(wave - bert)))
"""


def test_a_model_loads_nothing_that_bert_does_not(tmp_path):
    sizes = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 1}
    bert = AutoConfig.for_model("bert", **sizes, num_attention_heads=2, intermediate_size=8)
    for name, config in (("bert", bert), ("wave", WaveConfig(**sizes, conv_kernel_size=3, ngram_vocab_size=9))):
        AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path / name)
    command = [sys.executable, "-c", LOADED, str(tmp_path / "bert"), str(tmp_path / "wave")]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    more = set(json.loads(result.stdout.splitlines()[-1])) - set(sys.stdlib_module_names)
    assert more == {"wave_network"}
