"""WaveModel and its classifier: one text however it stands, the rules of transformers, training, and bad input."""

import math
from itertools import chain
from unittest import mock

import pytest
import torch
from huggingface_hub.errors import StrictDataclassFieldValidationError
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments
from transformers.modeling_outputs import BaseModelOutputWithPooling

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
# Any two settings stand together in some row.
NAMES = ("classifier_pooling", "position_embedding_type", "wave_operation", "restore", "magnitude")
ROWS = [
    (("mean", "sinusoidal", "modulation", "linear", "l2"), {}),
    (("mean", "absolute", "interference", "magnitude", "rms"), {"num_hidden_layers": 3, "ngram_vocab_size": 50}),
    (("mean", "none", "modulation", "magnitude", "l2"), {"num_hidden_layers": 2, "conv_kernel_size": 5}),
    (("cls", "sinusoidal", "interference", "linear", "rms"), {"num_hidden_layers": 3, "conv_kernel_size": 3}),
    (("cls", "absolute", "modulation", "linear", "rms"), {"type_vocab_size": 2, "wave_implementation": "eager"}),
    (("cls", "none", "interference", "magnitude", "l2"), {"ngram_vocab_size": 50, "ngram_hidden_size": 4}),
    (("max", "sinusoidal", "modulation", "magnitude", "rms"), {"intermediate_size": 24, "hidden_size": 130}),
    (("max", "absolute", "interference", "linear", "l2"), {"num_hidden_layers": 2, "wave_implementation": "eager"}),
    (
        ("max", "none", "interference", "linear", "rms"),
        {"conv_kernel_size": 3, "ngram_vocab_size": 50, "ngram_size": 3, "classifier_temperature": 2.5},
    ),
    (("opening", "absolute", "modulation", "magnitude", "l2"), {"num_hidden_layers": 2, "conv_kernel_size": 3}),
    (("segments", "none", "modulation", "linear", "l2"), {"type_vocab_size": 2, "conv_kernel_size": 3}),
]
SETTINGS = [dict(zip(NAMES, modes, strict=True)) | more for modes, more in ROWS]
IDS = torch.tensor([[5, 9, 2, 31, 9]])
TEXTS = [[5, 9, 2, 31, 9], [3], [8, 1, 8, 4, 22, 6, 17], [7, 7]]


def build(cls=WaveForSequenceClassification, dtype: torch.dtype = torch.float64, **settings):
    """A model in evaluation mode with large weights, none of which has a special value, such as a bias of zero."""
    torch.manual_seed(0)
    model = cls(WaveConfig(**SMALL | settings)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1 or "classifier" in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model.to(dtype)


def pad(texts, left: int = 0, right: int = 0, fill: int = 0) -> dict[str, torch.Tensor]:
    """Texts in one batch: the shorter ones padded on the right, then all on both sides."""
    longest = max(map(len, texts))
    ids = [[fill] * left + [*text] + [fill] * (longest - len(text) + right) for text in texts]
    mask = [[0] * left + [1] * len(text) + [0] * (longest - len(text) + right) for text in texts]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


def pack(texts) -> dict[str, torch.Tensor]:
    lengths = torch.tensor([0, *map(len, texts)])
    return {"input_ids": torch.tensor([[id for text in texts for id in text]]), "cu_seq_lens": lengths.cumsum(0)}


def gradients(model, **inputs) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model(**inputs).loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


# --- One text, however it stands --------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_text_has_the_same_logits_however_it_stands(settings):
    model = build(**settings)
    close = {"rtol": 0, "atol": 1e-12}
    with torch.no_grad():
        alone = torch.cat([model(torch.tensor([text])).logits for text in TEXTS])
        # 40 tokens of padding reach beyond the 32 positions: these count tokens, not padding.
        for left, right, fill in ((0, 0, 0), (0, 40, 7), (40, 0, 39), (3, 5, 0)):
            torch.testing.assert_close(model(**pad(TEXTS, left, right, fill)).logits, alone, **close)
        for kind in (torch.bool, torch.int32, torch.float32):
            padded = pad(TEXTS, 3, 5)
            padded["attention_mask"] = padded["attention_mask"].to(kind)
            torch.testing.assert_close(model(**padded).logits, alone, **close)
        packed = pack([*TEXTS, [], [4]])
        for offsets in (packed["cu_seq_lens"], packed["cu_seq_lens"].int()):
            logits = model(packed["input_ids"], cu_seq_lens=offsets).logits
            torch.testing.assert_close(logits[: len(TEXTS)], alone, **close)
            torch.testing.assert_close(logits[len(TEXTS)], model.classifier.bias / model.config.classifier_temperature)
        for length in (1, 2, 3, 6):
            model.config.chunk_length = length
            torch.testing.assert_close(model(**pad(TEXTS)).logits, alone, **close)
            torch.testing.assert_close(model(**pad(TEXTS, 3, 1, fill=9)).logits, alone, **close)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_text_gives_every_parameter_the_same_gradient_however_it_stands(settings):
    model = build(**settings)
    labels = torch.arange(len(TEXTS)) % 3
    model.zero_grad()
    for text, label in zip(TEXTS, labels, strict=True):
        (model(torch.tensor([text]), labels=label[None]).loss / len(TEXTS)).backward()
    alone = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    assert all(gradient.abs().max() > 0 for gradient in alone.values())
    for inputs in (pad(TEXTS, 0, 11, fill=7), pad(TEXTS, 11, 0), pack(TEXTS)):
        for name, gradient in gradients(model, **inputs, labels=labels).items():
            torch.testing.assert_close(gradient, alone[name], rtol=0, atol=1e-12 * alone[name].abs().max().item())
    embeddings = torch.randn(1, 10, model.config.hidden_size, dtype=torch.float64).requires_grad_()
    mask = pad([TEXTS[0]], 2, 3)["attention_mask"]
    model(inputs_embeds=embeddings, attention_mask=mask).logits[:, 0].sum().backward()
    assert (embeddings.grad[mask == 0] == 0).all()
    assert (embeddings.grad[mask == 1].abs().amax(dim=-1) > 0).all()


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_float32_is_near_float64_and_neighbours_change_no_bit(settings):
    model = build(dtype=torch.float32, **settings | {"initializer_range": 0.02})
    with torch.no_grad():
        logits = model(**pad(TEXTS)).logits
        others = pad([TEXTS[0], [11], [11] * 7, [11]])
        assert torch.equal(model(**others).logits[0], logits[0])
        torch.testing.assert_close(model.double()(**pad(TEXTS)).logits, logits.double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_texts_without_tokens_or_with_one_are_finite(settings, dtype):
    model = build(dtype=dtype, **settings).train()
    all_padding = {"input_ids": torch.tensor([[4, 6]]), "attention_mask": torch.tensor([[0, 0]])}
    for inputs in (pad([[], [7], [8, 3, 8, 5]]), all_padding, pad([[7]]), pack([[], [7], [8, 3]])):
        output = model(**inputs)
        assert output.logits.isfinite().all()
        labels = torch.zeros(len(output.logits), dtype=torch.long)
        assert all(gradient.isfinite().all() for gradient in gradients(model, **inputs, labels=labels).values())
    bias = model.classifier.bias / model.config.classifier_temperature
    assert torch.equal(model.eval()(**all_padding).logits[0], bias)


def test_hidden_states_of_chunks_are_those_of_one_pass():
    model = build(WaveModel, num_hidden_layers=2, conv_kernel_size=5, ngram_vocab_size=50, type_vocab_size=2)
    ids, mask = torch.randint(1, 40, (3, 17)), torch.ones(3, 17, dtype=torch.long)
    mask[1, 12:] = mask[2, :5] = 0
    given = {"token_type_ids": torch.arange(17) % 2, "position_ids": torch.arange(17) + 10**6}
    with torch.no_grad():
        expected = model(ids, mask, **given, pooling="max")
        model.config.chunk_length = 4
        chunked = model(ids, mask, **given)
        pooled = model(ids, mask, **given, pooling="max")
    torch.testing.assert_close(chunked[0][mask == 1], expected[0][mask == 1], rtol=0, atol=1e-12)
    torch.testing.assert_close(pooled.pooler_output, expected.pooler_output, rtol=0, atol=1e-12)
    assert pooled.last_hidden_state is None
    # A gradient, active dropout and recorded layers need one pass.
    model(ids, mask).last_hidden_state.sum().backward()
    with torch.no_grad():
        assert len(model(ids, mask, output_hidden_states=True).hidden_states) == 3
        model.embeddings.dropout.p = 0.5
        with mock.patch.object(model.layers[0], "forward", side_effect=model.layers[0].forward) as forward:
            model.train()(ids, mask)
        assert forward.call_count == 1


def test_given_positions_and_embeddings_are_packed_like_the_rest():
    model, inputs = build(position_embedding_type="absolute"), pack(TEXTS)
    positions = torch.cat([31 - torch.arange(len(text)) for text in TEXTS])[None]
    embeddings = model.get_input_embeddings()(inputs["input_ids"])
    expected = torch.cat(
        [model(torch.tensor([text]), position_ids=31 - torch.arange(len(text))).logits for text in TEXTS]
    )
    for given in ({"input_ids": inputs["input_ids"]}, {"inputs_embeds": embeddings}):
        logits = model(**given, cu_seq_lens=inputs["cu_seq_lens"], position_ids=positions).logits
        torch.testing.assert_close(logits, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("pooling", ["mean", "max", "cls", "opening"])
def test_poolings_read_what_their_names_say(pooling):
    model = build(WaveModel, num_hidden_layers=2)
    with torch.no_grad():
        output = model(**pad([TEXTS[0]], 2, 1), pooling=pooling)
    tokens = output.last_hidden_state[0, 2:-1]
    expected = {"mean": tokens.mean(dim=0), "cls": tokens[0], "max": tokens.amax(dim=0)}
    expected["opening"] = torch.cat([expected["mean"], tokens[:3].mean(dim=0)])
    expected = expected[pooling]
    torch.testing.assert_close(output.pooler_output[0], expected, rtol=0, atol=1e-12)


def test_two_texts_are_read_apart_and_compared_however_they_are_laid_out():
    model = build(WaveModel, num_hidden_layers=2, conv_kernel_size=3, ngram_vocab_size=50)
    types = [[0, 0, 1, 1, 1], [0], [0] * 3 + [1] * 4, [1, 1]]
    alone = [[], []]
    for text, kinds in zip(TEXTS, types, strict=True):
        for kind in (0, 1):
            ids = [id for id, other in zip(text, kinds, strict=True) if other == kind]
            alone[kind] += model(**pad([ids], right=1), pooling="mean").pooler_output
    u, v = map(torch.stack, alone)
    expected = torch.cat([u, v, (u - v).abs(), u * v], dim=-1)
    with torch.no_grad():
        packed = model(**pack(TEXTS), token_type_ids=torch.tensor([[*chain(*types)]]), pooling="segments")
        inputs = pad(TEXTS, 2, 1) | {"token_type_ids": pad(types, 2, 1)["input_ids"]}
        padded = model(**inputs, pooling="segments")
        model.config.chunk_length = 3
        chunked = model(**inputs, pooling="segments")
    for output in (padded, packed, chunked):
        torch.testing.assert_close(output.pooler_output, expected, rtol=0, atol=1e-12)
    assert padded.last_hidden_state.shape == (8, 10, 16)


# --- The rules of transformers ----------------------------------------------------------------------------------------


def test_core_parameters_are_the_papers():
    config = WaveConfig(vocab_size=30522, hidden_size=768, num_labels=4, position_embedding_type="none")
    with torch.device("meta"):
        model = WaveForSequenceClassification(config)
    assert model.num_parameters(exclude_embeddings=True) == 2_366_212
    assert model.num_parameters() == 2_366_212 + 30522 * 768


def test_outputs_are_those_of_transformers():
    model, labels = build(num_hidden_layers=3), torch.tensor([2])
    output = model.wave(IDS, output_hidden_states=True)
    assert isinstance(output, BaseModelOutputWithPooling)
    assert torch.equal(output.hidden_states[0], model.wave.embeddings(WaveTokens.check(IDS)))
    assert torch.equal(output.hidden_states[-1], output.last_hidden_state)
    assert len(output.hidden_states) == 4
    classified = model(IDS, labels=labels, output_hidden_states=True)
    assert all(torch.equal(*pair) for pair in zip(classified.hidden_states, output.hidden_states, strict=True))
    loss, logits = model(IDS, labels=labels, return_dict=False)
    assert torch.equal(loss, classified.loss)
    assert torch.equal(logits, model(inputs_embeds=model.get_input_embeddings()(IDS)).logits)
    assert model(IDS).hidden_states is None


def test_positions_and_segments_are_used_where_the_model_has_them():
    model = build()
    assert torch.equal(model(IDS, position_ids=torch.arange(5)).logits, model(IDS).logits)
    assert not torch.allclose(model(IDS, position_ids=torch.arange(5)[None] + 9).logits, model(IDS).logits, atol=1e-3)
    types = torch.tensor([[0, 0, 1, 1, 1]])
    assert torch.equal(model(IDS, token_type_ids=types).logits, model(IDS).logits)
    model = build(type_vocab_size=2)
    assert torch.equal(model(IDS, token_type_ids=0 * types).logits, model(IDS).logits)
    assert not torch.allclose(model(IDS, token_type_ids=types).logits, model(IDS).logits, atol=1e-3)


def test_sinusoids_are_the_published_ones_and_continue_beyond_the_table():
    short, long = (build(max_position_embeddings=length, dtype=torch.float32) for length in (32, 128))
    ids = torch.arange(100)[None] % 40
    assert torch.equal(short(ids).logits, long(ids).logits)
    compute = short.wave.embeddings.position_embeddings.compute
    for position in (0, 3, 31, 10**6):
        waves = compute(torch.tensor(position))
        for dimension in (0, 1, 7, 14):
            angle = position / 10000 ** (dimension // 2 * 2 / 16)
            expected = 0.5 * (math.cos(angle) if dimension % 2 else math.sin(angle))
            assert waves[dimension].item() == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("settings", [SETTINGS[0], SETTINGS[3]], ids=str)
@pytest.mark.parametrize("reentrant", [None, True, False])
def test_gradient_checkpointing_gives_equal_gradients_and_does_recompute(settings, reentrant):
    model = build(**settings | {"hidden_dropout_prob": 0.5}).train()
    inputs = pad(TEXTS, 1, 2) | {"labels": torch.tensor([1, 0, 2, 0])}
    torch.manual_seed(0)
    plain = gradients(model, **inputs)
    torch.manual_seed(0)
    model.gradient_checkpointing_enable(None if reentrant is None else {"use_reentrant": reentrant})
    mixing = model.wave.layers[0].mixing
    with mock.patch.object(mixing, "forward", side_effect=mixing.forward) as forward:
        checkpointed = gradients(model, **inputs)
    assert forward.call_count == 2
    assert all(torch.equal(checkpointed[name], gradient) for name, gradient in plain.items())


@pytest.mark.parametrize(
    ("num_labels", "labels", "loss"),
    [
        (1, torch.tensor([0.3, -1.2]), torch.nn.functional.mse_loss),
        (3, torch.tensor([2, 0]), torch.nn.functional.cross_entropy),
        (3, torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]]), torch.nn.functional.binary_cross_entropy_with_logits),
    ],
)
def test_the_loss_follows_from_the_labels_as_in_bert(num_labels, labels, loss):
    output = build(num_labels=num_labels, dtype=torch.float32)(torch.tensor([[3, 4], [5, 6]]), labels=labels)
    torch.testing.assert_close(output.loss, loss(output.logits.squeeze(1), labels))


def test_resized_embeddings_keep_the_old_rows_and_take_new_ids():
    model = build()
    before = model(IDS).logits
    model.resize_token_embeddings(44, mean_resizing=False)
    assert torch.equal(model(IDS).logits, before)
    assert model(torch.tensor([[43]])).logits.isfinite().all()
    with pytest.raises(IndexError, match=r"0 \.\.\. 43, got 44"):
        model(torch.tensor([[44]]))


@pytest.mark.parametrize("positions", ["sinusoidal", "absolute", "none"])
@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-5), (torch.bfloat16, 0.03), (torch.float16, 0.004)])
def test_a_model_is_loaded_in_another_dtype(dtype, close, positions, tmp_path):
    model = build(position_embedding_type=positions, initializer_range=0.1, dtype=torch.float32)
    model.save_pretrained(tmp_path)
    loaded = WaveForSequenceClassification.from_pretrained(tmp_path, dtype=dtype)
    assert {tensor.dtype for tensor in [*loaded.parameters(), *loaded.buffers()]} == {dtype}
    expected = model.double()(IDS).logits
    # Some roundings of each dtype, relative to the largest logit; float64 keeps the weights of float32.
    torch.testing.assert_close(loaded(IDS).logits.double(), expected, rtol=0, atol=close * expected.abs().max().item())


def test_bfloat16_autocast_stays_near_float32():
    model = build(dtype=torch.float32)
    exact = model(IDS).logits
    with torch.autocast("cpu", torch.bfloat16):
        output = model(IDS, labels=torch.tensor([1]))
    output.loss.backward()
    assert output.logits.dtype == torch.bfloat16
    # A few roundings of 2^-9 each, relative to the largest logit.
    assert (output.logits - exact).abs().max() <= 0.03 * exact.abs().max().clamp(min=1)
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


# --- Graphs -----------------------------------------------------------------------------------------------------------


def test_the_whole_model_compiles_into_one_graph_of_any_size():
    model = build(dtype=torch.float32, conv_kernel_size=3, ngram_vocab_size=50)
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    labels = torch.arange(4) % 3
    for inputs in (pad(TEXTS), pad(TEXTS, 3, 20), pack(TEXTS), pad(TEXTS) | {"position_ids": torch.arange(7) + 10**4}):
        expected, found = (gradients(form, **inputs, labels=labels) for form in (model, compiled))
        for gradient, other in zip(expected.values(), found.values(), strict=True):
            torch.testing.assert_close(other, gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "cls", "max", "opening"])
def test_an_exported_classifier_takes_other_batches_and_lengths(pooling):
    model = build(classifier_pooling=pooling, conv_kernel_size=3, ngram_vocab_size=50)
    shape = {0: torch.export.Dim("batch", min=1, max=64), 1: torch.export.Dim("length", min=1, max=32)}
    inputs = pad(TEXTS, 0, 2)
    shapes = {"input_ids": shape, "attention_mask": shape}
    exported = torch.export.export(model, (), inputs, dynamic_shapes=shapes).module()
    for other in (pad(TEXTS[:1]), pad([*TEXTS, [4]], 1, 9), pad([[3]])):
        torch.testing.assert_close(exported(**other).logits, model(**other).logits, rtol=0, atol=1e-12)


@pytest.mark.filterwarnings("ignore")
def test_a_traced_classifier_is_saved_and_takes_other_shapes(tmp_path):
    model = build(num_hidden_layers=2, return_dict=False)
    traced = torch.jit.trace(model, (IDS, torch.ones_like(IDS)), check_trace=False)
    torch.jit.save(traced, tmp_path / "traced.pt")
    loaded = torch.jit.load(tmp_path / "traced.pt")
    for texts in ([[4]], [range(1, 24)] * 9, [[1] * 64, [2]]):
        inputs = tuple(pad(texts).values())
        torch.testing.assert_close(loaded(*inputs)[0], model(*inputs)[0], rtol=0, atol=1e-12)


def test_per_sample_gradients_of_a_whole_model():
    model = build(hidden_dropout_prob=0.5)
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    ids, labels = torch.randint(1, 40, (3, 9)), torch.tensor([0, 1, 2])

    def loss(parameters, ids, label):
        return torch.func.functional_call(model, parameters, (ids[None],), {"labels": label[None]}).loss

    per_sample = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(parameters, ids, labels)
    for name, gradient in gradients(model, input_ids=ids[1:2], labels=labels[1:2]).items():
        torch.testing.assert_close(per_sample[name][1], gradient)
    model.train()
    logits = torch.func.vmap(lambda ids: model(ids[None]).logits[0], randomness="different")(ids[:1].expand(4, 9))
    assert len({tuple(row.tolist()) for row in logits}) == 4


# --- Training ---------------------------------------------------------------------------------------------------------


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


def train(folder, batch: int, accumulate: int, accepts_loss_kwargs: bool = False) -> torch.Tensor:
    """The weights after four steps of the stock Trainer. SGD, because Adam does not see the scale of a gradient."""
    model = build(num_hidden_layers=2, dtype=torch.float32)
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
    assert WaveForSequenceClassification.accepts_loss_kwargs is False
    one_batch = train(tmp_path, batch=16, accumulate=1)
    torch.testing.assert_close(train(tmp_path, batch=4, accumulate=4), one_batch, rtol=0, atol=1e-6)
    # Without it Trainer leaves the division to the loss, and nobody divides.
    wrong = train(tmp_path, batch=4, accumulate=4, accepts_loss_kwargs=True)
    assert (wrong - one_batch).abs().max() > 0.01


# --- Dropout ----------------------------------------------------------------------------------------------------------


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


def test_each_token_draws_its_own_dropout_also_where_a_hook_watches_the_table():
    embeddings = build(WaveModel, hidden_dropout_prob=0.5).embeddings.train()
    tokens = WaveTokens.check(torch.full((3, 8), 7))
    torch.manual_seed(0)
    drawn = embeddings(tokens)
    is_kept = (drawn != 0).flatten(0, 1)
    assert len({tuple(row.tolist()) for row in is_kept}) == 24
    kept = embeddings.eval()(tokens) * 2
    torch.testing.assert_close(drawn[drawn != 0], kept[drawn != 0])
    embeddings.train().word_embeddings.register_forward_hook(lambda module, inputs, output: None)
    torch.manual_seed(0)
    assert torch.equal(embeddings(tokens), drawn)


# --- Bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inputs", "error", "words"),
    [
        ({}, ValueError, ["input_ids", "inputs_embeds", "neither", "exactly one"]),
        ({"input_ids": IDS, "inputs_embeds": torch.zeros(1, 5, 16)}, ValueError, ["both", "exactly one"]),
        ({"inputs_embeds": torch.zeros(1, 5, 12)}, ValueError, ["inputs_embeds", "16", "12"]),
        ({"input_ids": IDS.float()}, ValueError, ["input_ids", "integers", "torch.float32"]),
        ({"input_ids": torch.tensor([[3, 40]])}, IndexError, ["input_ids", "40", "0 ... 39"]),
        ({"input_ids": torch.tensor([[3, -1]])}, IndexError, ["input_ids", "-1", "0 ... 39"]),
        ({"input_ids": IDS, "position_ids": IDS + 1}, IndexError, ["position_ids", "32", "0 ... 31"]),
        ({"input_ids": IDS, "position_ids": IDS[:, 1:]}, ValueError, ["position_ids", "(1, 4)", "(1, 5)"]),
        ({"input_ids": IDS, "token_type_ids": IDS}, IndexError, ["token_type_ids", "31", "0 ... 1"]),
        ({"input_ids": IDS, "labels": torch.tensor([3])}, IndexError, ["labels", "3", "0 ... 2"]),
        ({"input_ids": IDS, "labels": torch.tensor([-1])}, IndexError, ["labels", "-1", "0 ... 2"]),
        ({"input_ids": IDS, "attention_mask": IDS[:, 1:]}, ValueError, ["attention_mask", "(1, 4)", "(1, 5)"]),
        ({"input_ids": IDS[:, :0]}, ValueError, ["input_ids", "(1, 0)", "(batch size, length)", "at least 1"]),
        ({"input_ids": IDS[0]}, ValueError, ["input_ids", "(5,)", "(batch size, length)"]),
        ({"inputs_embeds": torch.zeros(5, 16)}, ValueError, ["inputs_embeds", "(5,)", "(batch size, length)"]),
        (pad([[1] * 33], 0, 9), IndexError, ["position_ids", "0 ... 31", "0 ... 32", "truncation=True"]),
        ({"input_ids": IDS, "cu_seq_lens": torch.tensor([1, 3, 5])}, ValueError, ["cu_seq_lens", "from 0", "1, 3, 5"]),
        ({"input_ids": IDS, "cu_seq_lens": torch.tensor([0, 3, 6])}, ValueError, ["cu_seq_lens", "length 5", "0, 3"]),
        ({"input_ids": IDS, "cu_seq_lens": torch.tensor([0, 4, 3, 5])}, ValueError, ["cu_seq_lens", "rise", "4, 3"]),
        ({"input_ids": IDS, "cu_seq_lens": torch.tensor([0.0, 5.0])}, ValueError, ["cu_seq_lens", "integers", "float"]),
        ({"input_ids": IDS, "cu_seq_lens": torch.tensor([5])}, ValueError, ["cu_seq_lens", "(1,)"]),
        ({**pad([[1] * 5]), "cu_seq_lens": torch.tensor([0, 5])}, ValueError, ["attention_mask", "both"]),
        ({"input_ids": IDS.expand(2, 5), "cu_seq_lens": torch.tensor([0, 5])}, ValueError, ["batch size", "2"]),
        ({"input_ids": IDS, "cu_seq_lens_q": torch.tensor([0, 5])}, ValueError, ["cu_seq_lens_q", "`cu_seq_lens`"]),
    ],
)
def test_bad_input_is_named_with_its_value_and_what_is_allowed(inputs, error, words):
    with pytest.raises(error) as caught:
        build(type_vocab_size=2, position_embedding_type="absolute", dtype=torch.float32)(**inputs)
    for word in words:
        assert word in str(caught.value)

    with pytest.raises(ValueError, match=r"`pooling` must be 'mean', .* or None, got 'sum'"):
        build(WaveModel)(IDS, pooling="sum")
    with pytest.raises(StrictDataclassFieldValidationError, match=r"wave_implementation(.|\n)*auto.*eager.*fused"):
        WaveConfig(wave_implementation="fast")
