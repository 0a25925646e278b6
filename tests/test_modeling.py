"""WaveModel and WaveForSequenceClassification: masks, the rules of transformers, training, and bad input."""

import math
import os
import shutil
import subprocess
import sys
from itertools import product
from unittest import mock

import pytest
import torch
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments
from transformers.modeling_outputs import BaseModelOutput, SequenceClassifierOutput

from wave_network import WaveConfig, WaveForSequenceClassification, WaveModel
from wave_network.modeling_wave.embeddings_wave import WaveDropout, WaveTokens

# Small, and every setting written out: what the defaults are is no business of these tests.
SMALL = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_labels": 3,
    "max_position_embeddings": 32,
    "position_embedding_type": "sinusoidal",
    "position_embedding_scale": 0.5,
    "hidden_dropout_prob": 0.0,
    "initializer_range": 0.5,
    "layer_norm_eps": 1e-8,
}
# Two networks for each comparison of logits that must not differ: one as initialised, in float32, to 1e-6; and one with
# large random weights, which magnify any error, in float64.
TOLERANCE = {torch.float32: {"rtol": 0, "atol": 1e-6}, torch.float64: {"rtol": 0, "atol": 1e-12}}
IDS = torch.tensor([[5, 9, 2, 31, 9]])


def initialise(cls=WaveForSequenceClassification, **settings):
    torch.manual_seed(0)
    return cls(WaveConfig(**{**SMALL, **settings})).eval()


def build(cls=WaveForSequenceClassification, **settings):
    """A model in evaluation mode with large weights, none of which has a special value, such as a bias of zero."""
    model = initialise(cls, **settings)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1 or "classifier" in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def build_in(dtype: torch.dtype, **settings):
    return build(**settings).double() if dtype == torch.float64 else initialise(initializer_range=0.02, **settings)


def modes(*names: str):
    """Every combination of the modes of these names, as a list of settings."""
    choices = {
        "wave_operation": ("modulation", "interference"),
        "restore": ("linear", "magnitude"),
        "magnitude": ("l2", "rms"),
        "classifier_pooling": ("mean", "cls", "max"),
        "position_embedding_type": ("sinusoidal", "absolute", "none"),
        "depth": ({"num_hidden_layers": 1}, {"num_hidden_layers": 3, "intermediate_size": 24}),
    }
    for values in product(*(choices[name] for name in names)):
        settings = dict(zip(names, values, strict=True))
        shape = settings.pop("depth", {})
        label = "-".join([*settings.values(), f"layers{shape['num_hidden_layers']}"] if shape else settings.values())
        yield pytest.param({**settings, **shape}, id=label)


EVERY_MODE = list(
    modes("wave_operation", "restore", "magnitude", "classifier_pooling", "position_embedding_type", "depth")
)
OPERATIONS = list(modes("wave_operation", "depth"))


def pad(left: int, right: int, ids: torch.Tensor = IDS, fill: int = 0) -> dict[str, torch.Tensor]:
    sides = (left, right)
    return {
        "input_ids": torch.nn.functional.pad(ids, sides, value=fill),
        "attention_mask": torch.nn.functional.pad(torch.ones_like(ids), sides),
    }


def gradients(model, **inputs) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model(**inputs).loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


# --- Masks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("settings", EVERY_MODE)
def test_a_text_has_the_same_logits_however_it_is_padded(settings, dtype):
    model = build_in(dtype, **settings)
    with torch.no_grad():
        alone = model(IDS).logits
        # 40 tokens of padding reach beyond the 32 positions: these count tokens, not padding.
        for left, right in ((0, 1), (0, 7), (0, 40), (1, 0), (7, 0), (40, 0), (3, 5)):
            torch.testing.assert_close(model(**pad(left, right)).logits, alone, **TOLERANCE[dtype])
        for fill in (7, 39):
            assert torch.equal(model(**pad(3, 5, fill=fill)).logits, model(**pad(3, 5)).logits)
        for kind in (torch.bool, torch.int32, torch.float32):
            padded = pad(3, 5)
            expected = model(**padded).logits
            padded["attention_mask"] = padded["attention_mask"].to(kind)
            assert torch.equal(model(**padded).logits, expected)
        assert torch.equal(model(IDS, torch.ones_like(IDS)).logits, alone)


@pytest.mark.parametrize("settings", OPERATIONS)
def test_without_a_mask_nothing_is_padding(settings):
    model = build(**settings)
    padded = pad(0, 7)
    logits = model(padded["input_ids"]).logits
    assert torch.equal(logits, model(padded["input_ids"], torch.ones(1, 12)).logits)
    assert not torch.allclose(logits, model(**padded).logits, atol=1e-3)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("settings", EVERY_MODE)
def test_a_text_has_the_same_logits_in_a_batch(settings, dtype):
    model = build_in(dtype, **settings)
    texts = [IDS, torch.tensor([[3]]), torch.tensor([[8, 1, 8, 4, 22, 6, 17]])]
    rows = [pad(0, 7 - texts[0].shape[1], texts[0]), pad(6, 0, texts[1]), pad(0, 0, texts[2])]
    batch = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
    with torch.no_grad():
        logits = model(**batch).logits
        for row, text in enumerate(texts):
            torch.testing.assert_close(logits[row], model(text).logits[0], **TOLERANCE[dtype])
        # Equal shapes: other neighbours do not change a bit.
        others = {**batch, "input_ids": batch["input_ids"].clone()}
        others["input_ids"][1:] = 11
        assert torch.equal(model(**others).logits[0], logits[0])
        assert not torch.equal(model(**others).logits[1], logits[1])


@pytest.mark.parametrize("settings", EVERY_MODE)
def test_padding_changes_no_gradient_of_a_parameter(settings):
    model = build(**settings).double()
    labels = torch.tensor([1])
    alone = gradients(model, input_ids=IDS, labels=labels)
    assert all(gradient.abs().max() > 0 for gradient in alone.values())
    for left, right in ((0, 11), (11, 0)):
        for name, gradient in gradients(model, **pad(left, right, fill=7), labels=labels).items():
            torch.testing.assert_close(gradient, alone[name], rtol=0, atol=1e-12 * alone[name].abs().max().item())


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
@pytest.mark.parametrize("settings", OPERATIONS)
def test_padding_gets_no_gradient(settings, pooling):
    model = build(WaveForSequenceClassification, classifier_pooling=pooling, **settings)
    padded = pad(2, 3)
    embeddings = torch.randn(1, 10, 16, generator=torch.Generator().manual_seed(1)).requires_grad_()
    model(inputs_embeds=embeddings, attention_mask=padded["attention_mask"]).logits[:, 0].sum().backward()
    is_token = padded["attention_mask"].bool()
    assert (embeddings.grad[~is_token] == 0).all()
    assert (embeddings.grad[is_token].abs().amax(dim=-1) > 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("settings", EVERY_MODE)
def test_texts_without_tokens_or_with_one_are_finite(settings, dtype):
    """A batch of an all-padding row, a text of one token, and one that is longer; then the first two alone."""
    model = build(**settings).to(dtype).train()
    ids = torch.tensor([[0, 0, 0, 0], [7, 0, 0, 0], [8, 3, 8, 5]])
    mask = torch.tensor([[0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]])
    batches = [
        {"input_ids": ids, "attention_mask": mask},
        {"input_ids": ids[:1], "attention_mask": mask[:1]},
        {"input_ids": ids[1:2, :1]},
    ]
    for batch in batches:
        labels = torch.arange(len(batch["input_ids"]))
        assert model(**batch).logits.isfinite().all()
        for name, gradient in gradients(model, **batch, labels=labels).items():
            assert gradient.isfinite().all(), name


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
def test_a_text_without_tokens_gives_the_bias_of_the_classifier(pooling):
    model = build(classifier_pooling=pooling)
    with torch.no_grad():
        logits = model(torch.tensor([[4, 6]]), torch.tensor([[0, 0]])).logits[0]
    assert torch.equal(logits, model.classifier.bias)


def test_poolings_read_what_their_names_say():
    for pooling in ("mean", "cls", "max"):
        model = build(classifier_pooling=pooling, num_hidden_layers=2)
        padded = pad(2, 1)
        with torch.no_grad():
            tokens = model.wave(**padded).last_hidden_state[0, 2:-1]
            expected = {"mean": tokens.mean(dim=0), "cls": tokens[0], "max": tokens.amax(dim=0)}[pooling]
            torch.testing.assert_close(model(**padded).logits[0], model.classifier(expected), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "sees_order"), [("sinusoidal", True), ("absolute", True), ("none", False)], ids=lambda value: str(value)
)
def test_only_positions_see_the_order_of_the_tokens(kind, sees_order):
    model = build(position_embedding_type=kind, num_hidden_layers=2)
    with torch.no_grad():
        difference = (model(IDS).logits - model(IDS.flip(1)).logits).abs().max()
    assert difference > 1e-3 if sees_order else difference < 1e-6


# --- The house of transformers ---------------------------------------------------------------------------------------


def test_core_parameters_are_the_papers():
    config = WaveConfig(vocab_size=30522, hidden_size=768, num_labels=4, position_embedding_type="none")
    with torch.device("meta"):
        model = WaveForSequenceClassification(config)
    assert model.num_parameters(exclude_embeddings=True) == 2_366_212
    assert model.num_parameters() == 2_366_212 + 30522 * 768


def test_hidden_states_run_from_the_embeddings_to_the_last_layer():
    model = build(WaveModel, num_hidden_layers=3)
    with torch.no_grad():
        output = model(**pad(0, 2), output_hidden_states=True)
        embedded, _ = model.embeddings(WaveTokens.check(**pad(0, 2)))
    assert isinstance(output, BaseModelOutput)
    assert len(output.hidden_states) == 4
    assert torch.equal(output.hidden_states[0], embedded)
    assert torch.equal(output.hidden_states[-1], output.last_hidden_state)
    assert len({tuple(state.flatten().tolist()) for state in output.hidden_states}) == 4


def test_the_classifier_passes_the_hidden_states_on():
    model = build(num_hidden_layers=2)
    output = model(IDS, output_hidden_states=True)
    assert isinstance(output, SequenceClassifierOutput)
    for state, expected in zip(
        output.hidden_states, model.wave(IDS, output_hidden_states=True).hidden_states, strict=True
    ):
        assert torch.equal(state, expected)
    assert model(IDS).hidden_states is None


def test_inputs_embeds_equal_input_ids():
    model = build()
    padded = pad(2, 3)
    embeddings = model.get_input_embeddings()(padded["input_ids"])
    from_embeddings = model(inputs_embeds=embeddings, attention_mask=padded["attention_mask"]).logits
    assert torch.equal(from_embeddings, model(**padded).logits)


def test_without_return_dict_outputs_are_a_tuple():
    model, labels = build(), torch.tensor([2])
    output = model(IDS, labels=labels)
    loss, logits = model(IDS, labels=labels, return_dict=False)
    assert torch.equal(loss, output.loss)
    assert torch.equal(logits, output.logits)
    (hidden,) = model.wave(IDS, return_dict=False)
    assert torch.equal(hidden, model.wave(IDS).last_hidden_state)


def test_given_positions_replace_the_counted_ones():
    model = build()
    assert torch.equal(model(IDS, position_ids=torch.arange(5)[None]).logits, model(IDS).logits)
    moved = model(IDS, position_ids=torch.arange(5)[None] + 9).logits
    assert not torch.allclose(moved, model(IDS).logits, atol=1e-3)


def test_token_types_are_used_with_segments_and_ignored_without():
    types = torch.tensor([[0, 0, 1, 1, 1]])
    without = build(type_vocab_size=0)
    assert torch.equal(without(IDS, token_type_ids=types).logits, without(IDS).logits)
    with_segments = build(type_vocab_size=2)
    assert torch.equal(with_segments(IDS, token_type_ids=0 * types).logits, with_segments(IDS).logits)
    assert not torch.allclose(with_segments(IDS, token_type_ids=types).logits, with_segments(IDS).logits, atol=1e-3)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("settings", OPERATIONS)
def test_gradient_checkpointing_gives_equal_gradients_and_does_recompute(settings, dropout):
    model = build(**settings, hidden_dropout_prob=dropout).train()
    inputs = pad(1, 2) | {"labels": torch.tensor([1])}
    torch.manual_seed(0)
    plain = gradients(model, **inputs)
    torch.manual_seed(0)
    model.gradient_checkpointing_enable()  # the one name that every transformers 5 has
    mixing = model.wave.layers[0].mixing
    with mock.patch.object(mixing, "forward", side_effect=mixing.forward) as forward:
        checkpointed = gradients(model, **inputs)
    assert forward.call_count == 2
    assert all(torch.equal(checkpointed[name], gradient) for name, gradient in plain.items())
    model.gradient_checkpointing_disable()
    assert model.eval().fold_().config.folded  # what transformers leaves behind is no obstacle


@pytest.mark.parametrize(
    ("given", "num_labels", "labels", "inferred"),
    [
        (None, 1, torch.tensor([0.3, -1.2]), "regression"),
        ("regression", 3, torch.tensor([[0.3, -1.2, 2.0], [1.0, 0.5, 0.1]]), "regression"),
        (None, 3, torch.tensor([2, 0]), "single_label_classification"),
        (None, 3, torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]]), "multi_label_classification"),
    ],
)
def test_problem_types_have_their_own_loss(given, num_labels, labels, inferred):
    model = build(num_labels=num_labels, problem_type=given)
    output = model(torch.tensor([[3, 4], [5, 6]]), labels=labels)
    functional = torch.nn.functional
    loss = {
        "regression": functional.mse_loss,
        "single_label_classification": functional.cross_entropy,
        "multi_label_classification": functional.binary_cross_entropy_with_logits,
    }[inferred]
    assert model.config.problem_type == inferred
    torch.testing.assert_close(output.loss, loss(output.logits.squeeze(1), labels))


def test_resized_embeddings_keep_the_old_rows_and_take_new_ids():
    model = build()
    before = model(IDS).logits
    model.resize_token_embeddings(44, mean_resizing=False)
    assert model.config.vocab_size == 44
    assert torch.equal(model(IDS).logits, before)
    assert model(torch.tensor([[43]])).logits.isfinite().all()
    with pytest.raises(IndexError, match=r"0 \.\.\. 43, got 44"):
        model(torch.tensor([[44]]))


@pytest.mark.parametrize("kind", ["sinusoidal", "absolute", "none"])
@pytest.mark.parametrize("device_map", [None, {"": "cpu"}, "auto"], ids=str)
def test_sharded_save_and_load_is_bit_equal(tmp_path, kind, device_map):
    model = build(position_embedding_type=kind, num_hidden_layers=2, intermediate_size=24, type_vocab_size=2)
    model.save_pretrained(tmp_path, max_shard_size="3KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    loaded, report = WaveForSequenceClassification.from_pretrained(
        tmp_path, device_map=device_map, output_loading_info=True
    )
    assert not any(report.values())
    assert torch.equal(loaded(**pad(2, 3)).logits, model(**pad(2, 3)).logits)


def test_the_body_and_the_classifier_load_each_others_checkpoints(tmp_path):
    model = build()
    model.save_pretrained(tmp_path / "classifier")
    body, report = WaveModel.from_pretrained(tmp_path / "classifier", output_loading_info=True)
    assert report["missing_keys"] == set()
    assert torch.equal(body(IDS).last_hidden_state, model.wave(IDS).last_hidden_state)
    body.save_pretrained(tmp_path / "body")
    again, report = WaveForSequenceClassification.from_pretrained(tmp_path / "body", output_loading_info=True)
    assert report["missing_keys"] == {"classifier.weight", "classifier.bias"}
    assert torch.equal(again.wave(IDS).last_hidden_state, model.wave(IDS).last_hidden_state)


def test_a_model_on_the_meta_device_takes_weights_and_rebuilds_its_positions():
    model = build()
    with torch.device("meta"):
        empty = WaveForSequenceClassification(model.config)
    assert all(tensor.is_meta for tensor in [*empty.parameters(), *empty.buffers()])
    empty.to_empty(device="cpu")
    empty.init_weights()
    empty.load_state_dict(model.state_dict())
    assert torch.equal(empty.eval()(IDS).logits, model(IDS).logits)


def test_sinusoids_are_the_published_ones():
    table = build(WaveModel, position_embedding_scale=0.25).embeddings.position_embeddings.weight
    for position, dimension in ((0, 0), (0, 1), (3, 0), (7, 6), (31, 15)):
        angle = torch.tensor(position / 10000 ** (dimension // 2 * 2 / 16))
        expected = 0.25 * (angle.sin() if dimension % 2 == 0 else angle.cos())
        torch.testing.assert_close(table[position, dimension], expected, rtol=1e-5, atol=1e-6)


def test_a_seed_fixes_weights_and_dropout():
    def run(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        model = WaveForSequenceClassification(WaveConfig(**{**SMALL, "hidden_dropout_prob": 0.3})).train()
        return model(IDS).logits

    assert torch.equal(run(3), run(3))
    assert not torch.equal(run(3), run(4))


@pytest.mark.parametrize("settings", OPERATIONS)
def test_bfloat16_autocast_stays_near_float32(settings):
    model = build(**settings)
    inputs = pad(1, 2) | {"labels": torch.tensor([1])}
    exact = model(**inputs).logits
    with torch.autocast("cpu", torch.bfloat16):
        output = model(**inputs)
    output.loss.backward()
    assert output.logits.dtype == torch.bfloat16
    # A few roundings of 2^-9 each, relative to the largest logit.
    assert (output.logits - exact).abs().max() <= 0.03 * exact.abs().max().clamp(min=1)
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler on a CPU")
@pytest.mark.parametrize("operation", ["modulation", "interference"])
def test_the_whole_model_compiles_into_one_graph(operation):
    model = build(wave_operation=operation)
    compiled = torch.compile(model, fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(**pad(2, 3)).logits, model(**pad(2, 3)).logits, rtol=1e-6, atol=1e-6)


# --- Training --------------------------------------------------------------------------------------------------------


class Texts(Dataset):
    """32 texts of equal length, so that the gradient of 16 is the mean of those of 4 x 4."""

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.ids = torch.randint(1, 40, (32, 6), generator=generator)
        self.labels = torch.randint(0, 3, (32,), generator=generator)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.ids[index], "labels": self.labels[index]}


def train(folder, batch: int, accumulate: int, accepts_loss_kwargs: bool | None = None) -> torch.Tensor:
    """The weights after four steps of the stock Trainer. SGD, because Adam does not see the scale of a gradient."""
    model = build(num_hidden_layers=2)
    if accepts_loss_kwargs is not None:
        model.accepts_loss_kwargs = accepts_loss_kwargs
    arguments = TrainingArguments(
        folder,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulate,
        max_steps=4,
        optim="sgd",
        learning_rate=0.1,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        seed=1,
    )
    Trainer(model=model, args=arguments, train_dataset=Texts()).train()
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_gradient_accumulation_4_x_4_equals_16_x_1(tmp_path):
    start = torch.cat([parameter.detach().flatten() for parameter in build(num_hidden_layers=2).parameters()])
    whole = train(tmp_path, batch=16, accumulate=1)
    assert (whole - start).abs().max() > 0.01
    torch.testing.assert_close(train(tmp_path, batch=4, accumulate=4), whole, rtol=0, atol=1e-6)
    # What `accepts_loss_kwargs = False` prevents: Trainer leaves the division to the loss, and nobody divides.
    wrong = train(tmp_path, batch=4, accumulate=4, accepts_loss_kwargs=True)
    assert (wrong - whole).abs().max() > 0.01


DDP_SCRIPT = """
import os, sys
import torch
import torch.distributed as dist
from wave_network import WaveConfig, WaveForSequenceClassification

settings, folder = eval(sys.argv[1]), sys.argv[2]
rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
torch.manual_seed(0)
model = wrapped = WaveForSequenceClassification(WaveConfig(**settings))
if world > 1:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    wrapped = torch.nn.parallel.DistributedDataParallel(model)
optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
ids = torch.randint(1, 40, (8, 6), generator=torch.Generator().manual_seed(1))
labels = torch.arange(8) % 3
for _ in range(3):
    optimizer.zero_grad()
    wrapped(input_ids=ids[rank::world], labels=labels[rank::world]).loss.backward()
    optimizer.step()
torch.save(model.state_dict(), f"{folder}/{world}-{rank}.pt")
"""


def test_two_process_training_equals_one_process(tmp_path):
    """Plain DistributedDataParallel, which also complains of any parameter without a gradient."""
    script = tmp_path / "step.py"
    script.write_text(DDP_SCRIPT)
    settings = {**SMALL, "num_hidden_layers": 2, "intermediate_size": 24}

    def launch(rank: int, world: int) -> subprocess.Popen:
        environment = os.environ | {"RANK": str(rank), "WORLD_SIZE": str(world), "OMP_NUM_THREADS": "1"}
        return subprocess.Popen([sys.executable, script, repr(settings), tmp_path], env=environment)

    processes = [launch(0, 1), launch(0, 2), launch(1, 2)]
    try:
        assert [process.wait(timeout=200) for process in processes] == [0, 0, 0]
    finally:
        for process in processes:
            process.kill()
    one, first, second = (torch.load(tmp_path / f"{name}.pt") for name in ("1-0", "2-0", "2-1"))
    for name, weight in one.items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], weight, rtol=0, atol=1e-6)


# --- Bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inputs", "error", "words"),
    [
        ({}, ValueError, ["input_ids", "inputs_embeds", "neither", "exactly one"]),
        (
            {"input_ids": IDS, "inputs_embeds": torch.zeros(1, 5, 16)},
            ValueError,
            ["input_ids", "inputs_embeds", "both", "exactly one"],
        ),
        ({"input_ids": torch.tensor([[3, 40]])}, IndexError, ["input_ids", "40", "0 ... 39"]),
        ({"input_ids": torch.tensor([[3, -1]])}, IndexError, ["input_ids", "-1", "0 ... 39"]),
        ({"input_ids": IDS, "position_ids": IDS + 1}, IndexError, ["position_ids", "32", "0 ... 31"]),
        ({"input_ids": IDS, "token_type_ids": IDS}, IndexError, ["token_type_ids", "31", "0 ... 1"]),
        ({"input_ids": IDS, "labels": torch.tensor([3])}, IndexError, ["labels", "3", "0 ... 2"]),
        ({"input_ids": IDS, "labels": torch.tensor([-1])}, IndexError, ["labels", "-1", "0 ... 2"]),
        ({"input_ids": IDS, "attention_mask": IDS[:, 1:]}, ValueError, ["attention_mask", "(1, 4)", "(1, 5)"]),
        ({"input_ids": IDS, "attention_mask": IDS[0]}, ValueError, ["attention_mask", "(5,)", "(1, 5)"]),
        ({"input_ids": IDS, "attention_mask": IDS[:, None]}, ValueError, ["attention_mask", "(1, 1, 5)", "(1, 5)"]),
        ({"input_ids": IDS[:, :0]}, ValueError, ["input_ids", "(1, 0)", "(batch size, length)", "at least 1"]),
        ({"inputs_embeds": torch.zeros(1, 0, 16)}, ValueError, ["inputs_embeds", "(1, 0)", "at least 1"]),
        ({"input_ids": IDS[0]}, ValueError, ["input_ids", "(5,)", "(batch size, length)"]),
        ({"inputs_embeds": torch.zeros(5, 16)}, ValueError, ["inputs_embeds", "(5,)", "(batch size, length"]),
        (
            {"input_ids": torch.ones(1, 33, dtype=torch.long)},
            ValueError,
            ["33", "max_position_embeddings", "32", "truncation=True"],
        ),
        (pad(0, 9, torch.ones(1, 33, dtype=torch.long)), ValueError, ["33", "max_position_embeddings", "32"]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_bad_input_is_named_with_its_value_and_what_is_allowed(inputs, error, words):
    with pytest.raises(error) as caught:
        build(type_vocab_size=2, position_embedding_type="absolute")(**inputs)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("positions", ["none", "sinusoidal"])
def test_without_learned_positions_a_text_may_have_any_length(positions):
    model = build(position_embedding_type=positions)
    assert model(torch.ones(1, 500, dtype=torch.long)).logits.isfinite().all()
    assert model(IDS, position_ids=IDS + 10**6).logits.isfinite().all()


def test_sinusoidal_positions_beyond_the_table_continue_it():
    short, long = (build(max_position_embeddings=length) for length in (32, 128))
    ids = torch.arange(100)[None] % 40
    torch.testing.assert_close(short(ids).logits, long(ids).logits, rtol=0, atol=0)
    # The millionth position is as exact as the first.
    waves = short.wave.embeddings.position_embeddings.compute(torch.tensor([10**6]))
    assert waves[0, :2].tolist() == pytest.approx([0.5 * math.sin(10**6), 0.5 * math.cos(10**6)], abs=1e-7)


@pytest.mark.parametrize("folded", [False, True])
@torch.no_grad()
def test_given_positions_beyond_the_table_are_computed_in_a_graph(folded):
    model = build()
    if folded:
        model.fold_()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for first in (0, 10**4):
        places = torch.arange(5)[None] + first
        expected = model(IDS, position_ids=places).logits
        torch.testing.assert_close(compiled(IDS, position_ids=places).logits, expected, rtol=0, atol=1e-6)


@torch.no_grad()
def test_ids_of_one_row_are_those_of_every_text():
    model, ids = build(type_vocab_size=2), IDS.expand(3, 5)
    for chunk in (None, 2):
        model.config.chunk_length = chunk
        one = model(ids, position_ids=torch.arange(5) + 9, token_type_ids=torch.arange(5) % 2).logits
        rows = [(torch.arange(5) + 9).expand(3, 5), (torch.arange(5) % 2).expand(3, 5)]
        assert torch.equal(one, model(ids, position_ids=rows[0], token_type_ids=rows[1]).logits)


@pytest.mark.filterwarnings("ignore")
def test_a_traced_classifier_is_saved_and_takes_other_shapes(tmp_path):
    model = build(num_hidden_layers=2, return_dict=False)
    traced = torch.jit.trace(model, (IDS, torch.ones_like(IDS)), check_trace=False)
    torch.jit.save(traced, tmp_path / "traced.pt")
    loaded = torch.jit.load(tmp_path / "traced.pt")
    for rows, length in ((1, 1), (9, 23), (2, 2 * model.config.max_position_embeddings)):
        ids, mask = torch.randint(1, 40, (rows, length)), torch.ones(rows, length, dtype=torch.long)
        mask[-1, length // 2 + 1 :] = 0
        torch.testing.assert_close(loaded(ids, mask)[0], model(ids, mask)[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
def test_an_exported_classifier_takes_other_batches_and_lengths(pooling):
    torch.manual_seed(0)
    config = WaveConfig(vocab_size=50, hidden_size=8, classifier_pooling=pooling, max_position_embeddings=32)
    model = WaveForSequenceClassification(config).eval()
    batch, length = torch.export.Dim("batch", min=1, max=64), torch.export.Dim("length", min=1, max=32)
    ids = torch.randint(1, 50, (3, 7))
    shapes = {"input_ids": {0: batch, 1: length}, "attention_mask": {0: batch, 1: length}}
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    exported = torch.export.export(model, (), inputs, dynamic_shapes=shapes).module()
    other = torch.randint(1, 50, (5, 12))
    mask = (torch.arange(12) < torch.tensor([[12], [7], [1], [11], [3]])).long()
    expected = model(input_ids=other, attention_mask=mask).logits
    torch.testing.assert_close(exported(input_ids=other, attention_mask=mask).logits, expected, rtol=0, atol=1e-6)


# --- Dropout ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_keeps_its_share_and_the_mean(p):
    torch.manual_seed(0)
    dropout, x = WaveDropout(p), torch.ones(1001, 999, requires_grad=True)
    dropped = dropout(x)
    is_kept = dropped != 0
    # Five standard deviations of a binomial distribution; and in each place of the four that share 64 random bits.
    for start in range(4):
        share = is_kept.flatten()[start::4].double().mean().item()
        assert abs(share - (1 - p)) < 5 * math.sqrt(p * (1 - p) / (x.numel() / 4))
    torch.testing.assert_close(dropped[is_kept], torch.full_like(dropped[is_kept], 1 / (1 - p)), rtol=1e-3, atol=0)
    neighbours = (is_kept[:, 1:] & is_kept[:, :-1]).double().mean().item()
    assert neighbours == pytest.approx((1 - p) ** 2, abs=3e-3)
    (dropped * 3).sum().backward()
    torch.testing.assert_close(x.grad, dropped.detach() * 3)


def test_dropout_follows_the_seed_and_stops_in_evaluation():
    dropout, x = WaveDropout(0.5), torch.randn(7, 5)
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(dropout(x))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
    assert dropout.eval()(x) is x
    assert torch.equal(WaveDropout(0.0)(x), x)
    assert torch.equal(WaveDropout(1.0)(x), torch.zeros_like(x))
    assert WaveDropout(0.5)(x.bfloat16()).dtype == torch.bfloat16
    assert WaveDropout(0.5)(x[:0]).shape == (0, 5)


def test_dropout_under_vmap_differs_from_text_to_text():
    model = build(hidden_dropout_prob=0.5).train()
    logits = torch.func.vmap(lambda ids: model(ids[None]).logits[0], randomness="different")(IDS.expand(4, 5))
    assert logits.isfinite().all()
    assert len({tuple(row.tolist()) for row in logits}) == 4


@pytest.mark.parametrize("positions", ["sinusoidal", "absolute", "none"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_model_is_loaded_in_another_dtype(dtype, positions, tmp_path):
    model = build(position_embedding_type=positions, initializer_range=0.1)
    model.save_pretrained(tmp_path)
    loaded = WaveForSequenceClassification.from_pretrained(tmp_path, dtype=dtype)
    assert {tensor.dtype for tensor in [*loaded.parameters(), *loaded.buffers()]} == {dtype}
    logits = loaded(IDS).logits
    assert logits.dtype == dtype
    torch.testing.assert_close(logits.double(), model.double()(IDS).logits, rtol=0.05, atol=0.05)
