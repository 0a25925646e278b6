"""Against the plain form: projections that are shared or folded, and documents that are read in chunks."""

import copy

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from torch import nn

from wave_network import WaveConfig, WaveForSequenceClassification, WaveModel
from wave_network.modeling_wave import modeling_wave
from wave_network.modeling_wave.ops_wave import merge, summarise, superpose, superpose_chunk

SMALL = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_labels": 3,
    "max_position_embeddings": 64,
    "hidden_dropout_prob": 0.0,
    "initializer_range": 0.3,
}
POSITIONS = ["sinusoidal", "absolute", "none"]


def build(cls=WaveForSequenceClassification, dtype=torch.float64, **settings):
    torch.manual_seed(0)
    return cls(WaveConfig(**SMALL | settings)).to(dtype).eval()


def batch(length: int = 20) -> dict[str, torch.Tensor]:
    """Texts that repeat their words, padded right, left and not at all."""
    input_ids = torch.randint(1, 40, (3, length), generator=torch.Generator().manual_seed(0)) % 9 + 1
    mask = torch.ones_like(input_ids)
    mask[0, length // 2 :] = 0
    mask[1, : length // 3] = 0
    return {"input_ids": input_ids * mask, "attention_mask": mask, "token_type_ids": input_ids % 2}


@pytest.fixture(autouse=True)
def small_widths_share(monkeypatch):
    monkeypatch.setattr(modeling_wave, "SHARED_WIDTH", 1)
    monkeypatch.setattr(modeling_wave, "SHARED_ROWS", 10.0)


def run(model, **inputs):
    model.zero_grad()
    output = model(**inputs, labels=torch.tensor([0, 1, 2]))
    output.loss.backward()
    return output.logits.detach(), {name: weight.grad for name, weight in model.named_parameters()}


# --- Shared: each distinct id is projected once -----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("types", [0, 2])
@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("layers", [1, 2])
def test_shared_projection_equals_the_plain_one(layers, positions, types, dtype, monkeypatch):
    model = build(dtype=dtype, num_hidden_layers=layers, position_embedding_type=positions, type_vocab_size=types)
    projected = []
    monkeypatch.setattr(model.wave.layers[0].mixing, "project", count_rows(model, projected))
    shared = run(model, **batch())
    monkeypatch.setattr(modeling_wave, "SHARED_ROWS", 0.0)
    plain = run(model, **batch())
    assert projected[0] < 60 == projected[1]  # 3 texts of 20 tokens
    scale = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 0.05}[dtype]
    torch.testing.assert_close(shared[0], plain[0], rtol=scale, atol=scale)
    for name, gradient in plain[1].items():
        size = gradient.abs().max().item()
        torch.testing.assert_close(shared[1][name], gradient, rtol=0, atol=scale * size, msg=name)


def count_rows(model, projected: list[int]):
    """`WaveMixing.project`, noting the rows that its linear map saw."""
    mixing = model.wave.layers[0].mixing

    def project(*arguments):
        seen = []
        linear = nn.functional.linear

        def count(x, *rest):
            seen.append(x.shape[:-1].numel())
            return linear(x, *rest)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(nn.functional, "linear", count)
            result = type(mixing).project(mixing, *arguments)
        projected.append(sum(seen))
        return result

    return project


def test_distinct_rows_must_be_few_and_wide(monkeypatch):
    model, projected = build(), []
    monkeypatch.setattr(model.wave.layers[0].mixing, "project", count_rows(model, projected))
    for width, rows in ((17, 10.0), (16, 0.1), (16, 10.0)):
        monkeypatch.setattr(modeling_wave, "SHARED_WIDTH", width)
        monkeypatch.setattr(modeling_wave, "SHARED_ROWS", rows)
        model(**batch())
    assert projected[0] == projected[1] == 60
    assert projected[2] < 60


def test_a_map_that_someone_watches_or_replaced_sees_every_token():
    model, seen = build(), []
    handle = model.wave.layers[0].mixing.variants.register_forward_hook(lambda *call: seen.append(call[1][0].shape))
    model(**batch())
    assert seen == [(3, 20, 16)]
    handle.remove()

    class Adapter(nn.Linear):
        def forward(self, x):
            seen.append(x.shape)
            return super().forward(x)

    model.wave.layers[0].mixing.variants = Adapter(16, 32).double()
    model(**batch())
    assert seen[1:] == [(3, 20, 16)]


@pytest.mark.parametrize("watch", ["forward", "register_full_backward_hook", "register_full_backward_pre_hook"])
def test_a_map_with_a_forward_or_backward_of_its_own_is_called(watch):
    model, calls = build(), []
    variants = model.wave.layers[0].mixing.variants
    if watch == "forward":
        forward = variants.forward
        variants.forward = lambda x: calls.append(x.shape) or forward(x)
    else:
        getattr(variants, watch)(lambda *call: calls.append(watch) and None)
    run(model, **batch())
    assert len(calls) == 1


@pytest.mark.parametrize("folded", [False, True])
@torch.no_grad()
def test_a_model_may_lie_on_disk_in_part(folded, tmp_path):
    model = build(dtype=torch.float32, hidden_dropout_prob=0.1)
    expected = model(**batch()).logits
    (model.fold_() if folded else model).save_pretrained(tmp_path)
    places = {"wave.embeddings": "cpu", "wave.layers": "disk", "classifier": "cpu"}
    loaded = WaveForSequenceClassification.from_pretrained(
        tmp_path, device_map=places, offload_folder=tmp_path / "offloaded"
    )
    assert not loaded.config.folded
    torch.testing.assert_close(loaded(**batch()).logits, expected, rtol=0, atol=1e-6)


def test_dropout_takes_the_same_dimensions_of_a_word_wherever_it_stands():
    embeddings = build(WaveModel, hidden_dropout_prob=0.5, position_embedding_type="none").train().embeddings
    ids = torch.tensor([[3, 5, 3], [7, 3, 5]])
    hidden_states, _ = embeddings(modeling_wave.WaveTokens.check(ids))
    assert torch.equal(hidden_states[0, 0], hidden_states[0, 2])
    assert torch.equal(hidden_states[0, 0], hidden_states[1, 1])
    dropped = hidden_states[0, 0] == 0
    assert 0 < dropped.sum() < 16
    table = embeddings.word_embeddings.weight
    torch.testing.assert_close(hidden_states[0, 0][~dropped], 2 * table[3][~dropped])


# --- Folded: the tables are projected beforehand ----------------------------------------------------------------------


@pytest.mark.parametrize("types", [0, 2])
@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("layers", [1, 3])
@torch.no_grad()
def test_folded_equals_plain_and_does_one_product_less(layers, positions, types, monkeypatch):
    model = build(num_hidden_layers=layers, position_embedding_type=positions, type_vocab_size=types)
    plain = model(**batch()).logits
    assert model.fold_() is model
    projected = []
    monkeypatch.setattr(model.wave.layers[0].mixing, "project", count_rows(model, projected))
    torch.testing.assert_close(model(**batch()).logits, plain, rtol=1e-12, atol=1e-12)
    assert projected == [0]
    ids = batch()["input_ids"]
    packed = model(input_ids=ids.reshape(1, -1), cu_seq_lens=torch.tensor([0, 20, 40, 60])).logits
    torch.testing.assert_close(packed, model(ids).logits, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("cls", [WaveForSequenceClassification, WaveModel])
def test_a_folded_model_is_saved_and_loaded_like_any_other(cls, tmp_path):
    model = build(cls, dtype=torch.float32).fold_()
    model.save_pretrained(tmp_path)
    loaded = cls.from_pretrained(tmp_path)
    assert loaded.config.folded
    assert loaded.base_model.layers[0].mixing.folded is not None
    assert set(loaded.state_dict()) == set(build(cls).state_dict())
    ids = batch()["input_ids"]
    assert torch.equal(loaded(ids)[0], model(ids)[0])
    unfolded = cls.from_pretrained(tmp_path, folded=False)
    assert unfolded.base_model.layers[0].mixing.folded is None
    torch.testing.assert_close(unfolded(ids)[0], model(ids)[0], rtol=0, atol=1e-6)
    _, report = cls.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]


def test_training_unfolds():
    model = build().fold_()
    copied = copy.deepcopy(model)
    model.train()
    assert not model.config.folded
    assert model.wave.layers[0].mixing.folded is None
    run(model, **batch())
    assert copied.config.folded


def test_a_weight_that_is_written_to_is_folded_again():
    model = build().fold_()
    with torch.no_grad():
        model.get_input_embeddings().weight[1:] += 1
    expected = copy.deepcopy(model).unfold_()(**batch()).logits
    torch.testing.assert_close(model(**batch()).logits, expected, rtol=1e-12, atol=1e-12)
    model.load_state_dict(build(initializer_range=0.5).state_dict())
    torch.testing.assert_close(model(**batch()).logits, build(initializer_range=0.5)(**batch()).logits)


def test_a_gradient_reaches_the_weights_of_a_folded_model():
    plain, folded = run(build(), **batch()), run(build().fold_(), **batch())
    torch.testing.assert_close(folded, plain, rtol=1e-12, atol=1e-12)


def test_frozen_weights_stay_folded_where_another_gradient_is_asked_for(monkeypatch):
    model, projected = build().fold_(), []
    model.wave.requires_grad_(False)
    monkeypatch.setattr(model.wave.layers[0].mixing, "project", count_rows(model, projected))
    model(**batch())
    assert projected == [0]


def assign(model, other):
    model.load_state_dict(other.state_dict(), assign=True)


def put_parameters(model, other):
    model.wave.layers[0].mixing.variants.weight = nn.Parameter(other.wave.layers[0].mixing.variants.weight.detach())


def put_data(model, other):
    model.get_input_embeddings().weight.data = other.get_input_embeddings().weight.data


def put_vector(model, other):
    nn.utils.vector_to_parameters(nn.utils.parameters_to_vector(other.parameters()), model.parameters())


def put_embeddings(model, other):
    model.wave.embeddings = other.wave.embeddings


@pytest.mark.parametrize("change", [assign, put_parameters, put_data, put_vector, put_embeddings])
@torch.no_grad()
def test_a_weight_that_is_replaced_is_folded_again(change, monkeypatch):
    model, other, projected = build().fold_(), build(initializer_range=0.5), []
    change(model, other)
    expected = copy.deepcopy(model).unfold_()(**batch()).logits
    monkeypatch.setattr(model.wave.layers[0].mixing, "project", count_rows(model, projected))
    torch.testing.assert_close(model(**batch()).logits, expected, rtol=1e-12, atol=1e-12)
    assert projected == [0]


@torch.no_grad()
def test_a_folded_model_is_called_with_other_weights_for_once():
    model, other, ids = build().fold_(), build(initializer_range=0.5), batch()["input_ids"]
    before, expected = model(ids).logits, other(ids).logits
    weights = {name: weight.detach() for name, weight in other.named_parameters()}
    torch.testing.assert_close(torch.func.functional_call(model, weights, (ids,)).logits, expected)
    several = {name: torch.stack([weight, 2 * weight]) for name, weight in weights.items()}
    call = torch.func.vmap(lambda weights: torch.func.functional_call(model, weights, (ids,)).logits)
    torch.testing.assert_close(call(several)[0], expected)
    torch.testing.assert_close(model(ids).logits, before)


@torch.no_grad()
def test_a_folded_table_that_someone_watches_is_called():
    model, other = build().fold_(), build()
    handles = [
        each.get_input_embeddings().register_forward_hook(lambda table, ids, rows: rows.tanh())
        for each in (model, other)
    ]
    torch.testing.assert_close(model(**batch()).logits, other(**batch()).logits, rtol=1e-12, atol=1e-12)
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(model(**batch()).logits, other(**batch()).logits, rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_dropout_alone_in_training_is_not_folded_away():
    results = []
    for model in (build(hidden_dropout_prob=0.5).fold_(), build(hidden_dropout_prob=0.5)):
        model.wave.embeddings.dropout.train()
        torch.manual_seed(0)
        results.append(model(**batch()).logits)
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_a_compiled_folded_model_takes_weights_that_are_loaded():
    model, other = build().fold_(), build(initializer_range=0.5)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    compiled(**batch())
    model.load_state_dict(other.state_dict())
    torch.testing.assert_close(compiled(**batch()).logits, other(**batch()).logits, rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_what_is_folded_under_autocast_is_of_the_weights_dtype():
    models = {"before": build(dtype=torch.float32).fold_(), "inside": build(dtype=torch.float32)}
    models["again"] = copy.deepcopy(models["before"])  # folds at its first call
    expected = build(dtype=torch.float32)(**batch()).logits
    for name, model in models.items():
        with torch.autocast("cpu", torch.bfloat16):
            near = (model.fold_() if name == "inside" else model)(**batch()).logits
        torch.testing.assert_close(near.float(), expected, rtol=0.01, atol=0.01)
        torch.testing.assert_close(model(**batch()).logits, expected, rtol=0, atol=1e-6)


def test_fold_follows_the_dtype_and_positions_beyond_the_table():
    model = build(position_embedding_type="sinusoidal").fold_()
    long = torch.randint(1, 40, (2, 100))
    torch.testing.assert_close(model(long).logits, build()(long).logits, rtol=1e-12, atol=1e-12)
    single = model.to(torch.float32)
    torch.testing.assert_close(single(**batch()).logits, build(dtype=torch.float32)(**batch()).logits)


def test_a_folded_model_compiles():
    model = build(dtype=torch.float32).fold_()
    compiled = torch.compile(model, fullgraph=True, dynamic=True)
    with torch.no_grad():
        for length in (20, 31):
            inputs = batch(length)
            torch.testing.assert_close(compiled(**inputs).logits, model(**inputs).logits, rtol=0, atol=1e-6)


def test_fold_refuses_what_it_cannot_take_into_the_product():
    with pytest.raises(ValueError, match=r"inference.*eval\(\)"):
        build().train().fold_()
    model = build()
    model.wave.layers[0].mixing.variants = nn.Sequential(nn.Linear(16, 32), nn.Tanh())
    with pytest.raises(ValueError, match="Sequential"):
        model.fold_()
    model = build()
    model.set_input_embeddings(nn.Embedding(40, 16, max_norm=1.0))
    with pytest.raises(ValueError, match="Embedding"):
        model.fold_()
    model = build()
    model.get_input_embeddings().register_forward_hook(lambda module, inputs, output: output.tanh())
    with pytest.raises(ValueError, match="Embedding"):
        model.fold_()
    assert not model.config.folded


# --- Chunks: documents of any length ----------------------------------------------------------------------------------


def test_summaries_merge_in_any_order_and_grouping():
    chunks = torch.randn(5, 2, 7, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    chunks[2, :, 3] *= 1e4
    chunks[4, :, 1] = chunks[2, :, 3]  # a tie across chunks
    whole = summarise(torch.cat(list(chunks), dim=1))
    parts = [summarise(chunk) for chunk in chunks]
    left = merge(merge(merge(merge(parts[0], parts[1]), parts[2]), parts[3]), parts[4])
    right = merge(parts[4], merge(merge(parts[3], parts[0]), merge(parts[2], parts[1])))
    for one, other, third in zip(whole, left, right, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-14, atol=0)
        torch.testing.assert_close(one, third, rtol=1e-14, atol=0)


@pytest.mark.parametrize("magnitude", ["l2", "rms"])
@pytest.mark.parametrize("operation", ["modulation", "interference"])
def test_chunks_superpose_as_the_whole_text_does(operation, magnitude):
    variants = torch.randn(2, 23, 6, generator=torch.Generator().manual_seed(0))
    variants[0, 20] *= 1e4
    variants[:, :, 2] = 0
    variants[1, 5] = variants[1, 19]
    mask = torch.ones(2, 23, dtype=torch.bool)
    mask[1, :4] = False
    pieces = [(variants[:, start : start + 6], mask[:, start : start + 6]) for start in range(0, 23, 6)]
    summary = None
    for piece in pieces:
        part = summarise(*piece)
        summary = part if summary is None else merge(summary, part)
    result = torch.cat([superpose_chunk(x, summary, m, operation, magnitude) for x, m in pieces], dim=1)
    expected = superpose(variants.double(), mask, operation, magnitude)
    size = superpose(variants.double().abs(), mask, operation, magnitude).abs().amax(dim=1, keepdim=True)
    assert ((result - expected).abs() <= 1e-6 * size).all()


@pytest.mark.parametrize("pooling", ["mean", "max", "cls"])
@pytest.mark.parametrize("positions", ["sinusoidal", "none"])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("chunk", [1, 7, 19, 20])
@pytest.mark.parametrize("folded", [False, True])
@torch.no_grad()
def test_a_classifier_reads_chunks_as_one_text(layers, chunk, positions, pooling, folded):
    settings = {"num_hidden_layers": layers, "position_embedding_type": positions, "type_vocab_size": 2}
    model = build(classifier_pooling=pooling, magnitude="rms", **settings)
    whole = model(**batch()).logits
    if folded:
        model.fold_()
    model.config.chunk_length = chunk
    torch.testing.assert_close(model(**batch()).logits, whole, rtol=1e-11, atol=1e-11)
    without_mask = batch() | {"attention_mask": None}
    chunked = model(**without_mask).logits
    model.config.chunk_length = None
    torch.testing.assert_close(chunked, model(**without_mask).logits, rtol=1e-11, atol=1e-11)


@torch.no_grad()
def test_the_base_model_reads_chunks_too():
    model = build(WaveModel, dtype=torch.float32, num_hidden_layers=2)
    inputs_embeds = model.get_input_embeddings()(batch(300)["input_ids"])
    for inputs in (batch(300), {"inputs_embeds": inputs_embeds}):
        model.config.chunk_length = None
        whole = model(**inputs).last_hidden_state
        model.config.chunk_length = 64
        torch.testing.assert_close(model(**inputs).last_hidden_state, whole, rtol=0, atol=1e-5)


def test_gradients_and_recorded_layers_take_one_pass(monkeypatch):
    model = build()
    model.config.chunk_length = 7
    monkeypatch.setattr(type(model.wave), "read_chunks", lambda *_: pytest.fail("read in chunks"))
    run(model, **batch())
    with torch.no_grad():
        assert len(model(**batch(), output_hidden_states=True).hidden_states) == 2
        model(input_ids=batch()["input_ids"].reshape(1, -1), cu_seq_lens=torch.tensor([0, 20, 60]))


@pytest.mark.parametrize("settings", [{"hidden_dropout_prob": 0.5}, {"token_dropout_prob": 0.5}], ids=str)
@pytest.mark.parametrize("part", ["model", "modules"])
@torch.no_grad()
def test_active_dropout_takes_one_pass(part, settings, monkeypatch):
    model = build(WaveModel, chunk_length=7, **settings)
    if part == "model":
        model.train()
    else:
        model.embeddings.train()
    monkeypatch.setattr(type(model), "read_chunks", lambda *_: pytest.fail("read in chunks"))
    assert model(**batch()).last_hidden_state.isfinite().all()


def test_chunk_length_is_checked():
    with pytest.raises(StrictDataclassClassValidationError, match=r"`chunk_length`.*at least 1.*0"):
        WaveConfig(chunk_length=0)


# --- Packed: what is wrong with offsets is named ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offsets", "more", "words"),
    [
        ([1, 5], {}, ["cu_seq_lens", "0", "5", "1, 5"]),
        ([0, 4], {}, ["cu_seq_lens", "length 5", "0, 4"]),
        ([0, 3, 2, 5], {}, ["cu_seq_lens", "rise", "0, 3, 2, 5"]),
        ([0.0, 5.0], {}, ["cu_seq_lens", "integers", "float32"]),
        ([[0, 5]], {}, ["cu_seq_lens", "(1, 2)"]),
        ([0], {}, ["cu_seq_lens", "(1,)"]),
        ([0, 5], {"attention_mask": torch.ones(1, 5)}, ["attention_mask", "cu_seq_lens", "both"]),
        ([0, 5], {"input_ids": torch.ones(2, 5, dtype=torch.long)}, ["cu_seq_lens", "batch size must be 1", "2"]),
    ],
)
def test_wrong_offsets_are_named(offsets, more, words):
    with pytest.raises(ValueError, match=r"\w") as caught:
        build()(**{"input_ids": torch.ones(1, 5, dtype=torch.long), "cu_seq_lens": torch.tensor(offsets)} | more)
    for word in words:
        assert word in str(caught.value)


# --- Whoever waits for a call of a table, or may not ask for values ---------------------------------------------------


def test_a_table_that_someone_watches_is_called_with_every_token():
    model, inputs = build(), batch()
    plain = run(model, **inputs)
    seen = []
    handle = model.wave.embeddings.word_embeddings.register_forward_hook(
        lambda table, args, output: seen.append(output.shape)
    )
    watched = run(model, **inputs)
    handle.remove()
    assert seen == [(3, 20, 16)]
    torch.testing.assert_close(watched, plain, rtol=1e-10, atol=1e-12)


def patch(part, change):
    """Changes what a part is given, or gives."""
    kind = "register_forward_hook" if part.endswith("embeddings") else "register_forward_pre_hook"

    def hook(module, args, output=None):
        return (change(output[0]), *output[1:]) if kind == "register_forward_hook" else (change(args[0]), *args[1:])

    return lambda model: getattr(model.get_submodule(part), kind)(hook)


@pytest.mark.parametrize(
    ("part", "how"),
    [
        ("wave.embeddings", "in chunks"),  # a layer is called when its text has been summed up
        *(
            (part, how)
            for part in ("wave.embeddings", "wave.layers.0", "wave.layers.0.mixing")
            for how in ("shared", "folded")
        ),
    ],
)
@torch.no_grad()
def test_who_changes_what_the_first_layer_is_given_changes_all_that_it_reads(part, how, monkeypatch):
    model, inputs = build(), batch()
    if how == "folded":
        model.fold_()
    if how == "in chunks":
        model.config.chunk_length = 7
    patch(part, torch.tanh)(model)
    found = model(**inputs).logits
    monkeypatch.setattr(modeling_wave, "SHARED_ROWS", 0.0)
    other = build()
    patch(part, torch.tanh)(other)
    torch.testing.assert_close(found, other(**inputs).logits, rtol=1e-10, atol=1e-12)
    assert not torch.allclose(found, build()(**inputs).logits, atol=1e-3)


@pytest.mark.parametrize("watch", ["output_hidden_states", "register_full_backward_hook"])
def test_the_gradient_by_what_the_first_layer_is_given_is_whole(watch, monkeypatch):
    def gradient(model):
        seen = []
        if watch == "output_hidden_states":
            output = model(**batch(), output_hidden_states=True)
            return torch.autograd.grad(output.logits[:, 0].sum(), output.hidden_states[0])[0]
        model.wave.layers[0].register_full_backward_hook(lambda layer, grads, _: seen.append(grads[0]))
        model(**batch()).logits[:, 0].sum().backward()
        return seen[0]

    found = gradient(build())
    monkeypatch.setattr(modeling_wave, "SHARED_ROWS", 0.0)
    torch.testing.assert_close(found, gradient(build()), rtol=1e-10, atol=1e-12)


def test_hidden_states_that_were_recorded_once_cost_nothing_afterwards(monkeypatch):
    model, projected = build(), []
    model(**batch(), output_hidden_states=True)
    linear = nn.functional.linear
    monkeypatch.setattr(
        nn.functional, "linear", lambda x, *more: projected.append(x.shape[:-1].numel()) or linear(x, *more)
    )
    model(**batch())
    assert projected[0] < 60


def test_an_error_in_a_hook_of_somebody_is_left_as_it_is():
    model = build()

    def fail(*_):
        raise IndexError("of mine")

    model.wave.embeddings.word_embeddings.register_forward_hook(fail)
    with pytest.raises(IndexError, match=r"^of mine$"):
        model(**batch())


@pytest.mark.parametrize("positions", POSITIONS)
def test_gradients_of_each_text_by_vmap_are_those_of_the_text_alone(positions):
    model, inputs, labels = build(position_embedding_type=positions), batch(), torch.tensor([0, 1, 2])
    weights = {name: weight.detach() for name, weight in model.named_parameters()}

    def loss(weights, input_ids, mask, label):
        given = {"input_ids": input_ids[None], "attention_mask": mask[None], "labels": label[None]}
        return torch.func.functional_call(model, weights, (), given).loss

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0, 0))(
        weights, inputs["input_ids"], inputs["attention_mask"], labels
    )
    for row in range(3):
        alone = torch.func.grad(loss)(weights, inputs["input_ids"][row], inputs["attention_mask"][row], labels[row])
        for name, gradient in alone.items():
            torch.testing.assert_close(each[name][row], gradient, rtol=1e-9, atol=1e-12, msg=name)


@pytest.mark.parametrize("positions", POSITIONS)
def test_shapes_can_be_had_on_the_meta_device(positions):
    with torch.device("meta"):
        model = WaveForSequenceClassification(WaveConfig(**SMALL, position_embedding_type=positions)).eval()
        inputs = {"input_ids": torch.zeros(2, 70, dtype=torch.long), "attention_mask": torch.ones(2, 70)}
    if positions != "absolute":  # which has to ask how long the texts are
        assert model(**inputs).logits.shape == (2, 3)
    assert model(**{name: value[:, :60] for name, value in inputs.items()}).logits.shape == (2, 3)


def test_weights_are_enough_after_to_empty():
    model = build()
    with torch.device("meta"):
        empty = WaveForSequenceClassification(WaveConfig(**SMALL)).double().eval()
    empty = empty.to_empty(device="cpu")
    empty.wave.embeddings.position_embeddings.weight.fill_(torch.nan)
    empty.load_state_dict(model.state_dict())
    torch.testing.assert_close(empty(**batch()).logits, model(**batch()).logits, rtol=0, atol=0)


def test_a_folded_checkpoint_loads_without_its_weights(tmp_path):
    build(WaveModel).fold_().save_pretrained(tmp_path)
    model = WaveModel.from_pretrained(tmp_path, device_map="meta")
    assert model.device.type == "meta"
    assert not model.config.folded


@pytest.mark.parametrize("settings", [{"conv_kernel_size": 3}, {"ngram_vocab_size": 50, "ngram_hidden_size": 4}])
def test_a_config_that_cannot_be_folded_is_refused(settings):
    name = list(settings)[-1]
    with pytest.raises(StrictDataclassClassValidationError, match=f"`folded` must be False where `{name}`"):
        WaveConfig(**SMALL, folded=True, **settings)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"position_ids": torch.arange(20).repeat(2, 1)}, ["`position_ids`", "(3, 20) or (1, 20)", "(2, 20)"]),
        ({"position_ids": torch.arange(19)}, ["`position_ids`", "(3, 20) or (1, 20)", "(1, 19)"]),
        ({"position_ids": torch.arange(20.0)}, ["`position_ids`", "integers", "torch.float32"]),
        ({"token_type_ids": torch.tensor(1)}, ["`token_type_ids`", "(3, 20) or (1, 20)", "()"]),
        ({"token_type_ids": torch.zeros(3, 21).long()}, ["`token_type_ids`", "(3, 21)"]),
        ({"input_ids": torch.ones(3, 20)}, ["`input_ids`", "integers", "torch.float32"]),
        ({"input_ids": None, "inputs_embeds": torch.zeros(3, 20, 1)}, ["`inputs_embeds`", "length, 16)", ", 1)"]),
        ({"cu_seq_lens_q": torch.tensor([0, 20])}, ["`cu_seq_lens`", "`cu_seq_lens_q`"]),
    ],
    ids=["rows", "length", "floats", "scalar", "types", "ids", "width", "attention"],
)
@pytest.mark.parametrize("chunk", [None, 7])
def test_inputs_of_another_shape_or_kind_are_named(given, words, chunk):
    model = build(chunk_length=chunk, type_vocab_size=2)
    with pytest.raises(ValueError, match=words[0]) as caught, torch.no_grad():
        model(**batch() | given)
    assert all(word in str(caught.value) for word in words)


def test_no_texts_have_no_positions_to_count():
    model = build(position_embedding_type="absolute")
    none = torch.zeros(0, 65, dtype=torch.long)
    assert model(none, attention_mask=none).logits.shape == (0, 3)
