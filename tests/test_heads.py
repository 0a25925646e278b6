"""The heads beside the sequence classifier: their losses, padding, packing, training, and each other's checkpoints."""

import logging
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch.nn.functional import cross_entropy, pad
from torch.utils.data import Dataset
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForMultipleChoice,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    Trainer,
    TrainingArguments,
)
from transformers.utils import logging as library_logging

from wave_network import (
    WaveConfig,
    WaveForMaskedLM,
    WaveForMultipleChoice,
    WaveForQuestionAnswering,
    WaveForSequenceClassification,
    WaveForTokenClassification,
    WaveModel,
)

SETTINGS = {
    "vocab_size": 40,
    "hidden_size": 10,
    "num_labels": 3,
    "conv_kernel_size": 3,
    "hidden_dropout_prob": 0.0,
    "initializer_range": 0.5,
}
HEADS = {
    WaveForMaskedLM: AutoModelForMaskedLM,
    WaveForMultipleChoice: AutoModelForMultipleChoice,
    WaveForQuestionAnswering: AutoModelForQuestionAnswering,
    WaveForSequenceClassification: AutoModelForSequenceClassification,
    WaveForTokenClassification: AutoModelForTokenClassification,
}
OF_TOKENS = (WaveForMaskedLM, WaveForTokenClassification, WaveForQuestionAnswering)
TEXTS = [[5, 9, 2, 31, 9, 8], [3], [7, 7, 30, 4]]


def build(cls: Any, **settings: Any) -> Any:
    torch.manual_seed(0)
    return cls(WaveConfig(**SETTINGS | settings)).eval()


def stand(texts: list[list[int]], left: int = 0, right: int = 0, fill: int = 0) -> dict[str, torch.Tensor]:
    """Texts in one batch: the shorter ones padded on the right, then all on both sides."""
    longest = max(map(len, texts))
    ids = torch.tensor([text + [fill] * (longest - len(text)) for text in texts])
    mask = torch.tensor([[1] * len(text) + [0] * (longest - len(text)) for text in texts])
    return {"input_ids": pad(ids, (left, right), value=fill), "attention_mask": pad(mask, (left, right))}


def lay(texts: list[list[int]]) -> dict[str, torch.Tensor]:
    lengths = torch.tensor([0, *map(len, texts)])
    return {"input_ids": torch.tensor([[token for text in texts for token in text]]), "cu_seq_lens": lengths.cumsum(0)}


def read(model: Any, **inputs: torch.Tensor) -> torch.Tensor:
    """What a head of tokens says about each, (B, L, ...)."""
    output = model(**inputs)
    if isinstance(model, WaveForQuestionAnswering):
        return torch.stack([output.start_logits, output.end_logits], dim=-1)
    return output.logits


# Padding and packing


@pytest.mark.parametrize("cls", OF_TOKENS)
@torch.no_grad()
def test_a_token_has_the_same_logits_however_its_text_is_padded(cls):
    model = build(cls).double()
    for left, right in ((0, 3), (3, 0), (2, 2)):
        padded = read(model, **stand(TEXTS, left, right, fill=11))
        for row, text in enumerate(TEXTS):
            alone = read(model, input_ids=torch.tensor([text]))
            torch.testing.assert_close(padded[row, left : left + len(text)], alone[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("cls", OF_TOKENS)
@torch.no_grad()
def test_a_token_has_the_same_logits_packed_and_padded(cls):
    model = build(cls).double()
    inputs = stand(TEXTS)
    padded, packed = read(model, **inputs), read(model, **lay(TEXTS))
    if cls is not WaveForQuestionAnswering:  # its logits come one row for each text
        padded = padded[inputs["attention_mask"] == 1][None]
    torch.testing.assert_close(packed, padded, rtol=0, atol=1e-12)


@pytest.mark.parametrize("cls", [WaveForMaskedLM, WaveForTokenClassification])
def test_packed_labels_give_the_loss_and_gradients_of_padded_ones(cls):
    model = build(cls).double()
    padded, packed = stand(TEXTS), lay(TEXTS)
    labels = torch.tensor([[0, -100, 2, 1, 1, -100], [2, -100, -100, -100, -100, -100], [-100, 0, 1, 2, -100, -100]])
    results = []
    for inputs, own in ((padded, labels), (packed, labels[padded["attention_mask"] == 1][None])):
        model.zero_grad()
        loss = model(**inputs, labels=own).loss
        loss.backward()
        results.append((loss, {name: parameter.grad.clone() for name, parameter in model.named_parameters()}))
    (loss, gradients), (same, others) = results
    torch.testing.assert_close(loss, same, rtol=0, atol=1e-12)
    torch.testing.assert_close(gradients, others, rtol=0, atol=1e-12)


def test_packed_answers_give_the_loss_of_padded_ones():
    model = build(WaveForQuestionAnswering).double()
    places = {"start_positions": torch.tensor([1, 0, 2]), "end_positions": torch.tensor([4, 0, 3])}
    padded, packed = model(**stand(TEXTS), **places).loss, model(**lay(TEXTS), **places).loss
    torch.testing.assert_close(padded, packed, rtol=0, atol=1e-12)


@pytest.mark.parametrize("pooling", ["mean", "max", "cls", "opening"])
@torch.no_grad()
def test_a_choice_has_the_same_score_however_it_is_padded(pooling):
    model = build(WaveForMultipleChoice, classifier_pooling=pooling).double()
    inputs = {name: value[None] for name, value in stand(TEXTS, left=2, right=1, fill=9).items()}
    scores = model(**inputs).logits
    assert scores.shape == (1, 3)
    alone = [model(torch.tensor([[text]])).logits[0, 0] for text in TEXTS]
    torch.testing.assert_close(scores[0], torch.stack(alone), rtol=0, atol=1e-12)
    embeds = model.get_input_embeddings()(inputs["input_ids"])
    same = model(inputs_embeds=embeds, attention_mask=inputs["attention_mask"]).logits
    torch.testing.assert_close(same, scores, rtol=0, atol=1e-12)


# Losses


@pytest.mark.parametrize("cls", [WaveForMaskedLM, WaveForTokenClassification])
def test_the_loss_of_tokens_is_the_mean_over_those_with_a_label(cls):
    model = build(cls)
    labels = torch.tensor([[0, -100, 2, 1, 1, -100], [2] + [-100] * 5, [-100, 0, 1, 2, -100, -100]])
    output = model(**stand(TEXTS), labels=labels)
    chosen = labels != -100
    torch.testing.assert_close(output.loss, cross_entropy(output.logits[chosen], labels[chosen]))
    halved = model(**stand(TEXTS), labels=labels, num_items_in_batch=2 * int(chosen.sum())).loss
    torch.testing.assert_close(halved, output.loss / 2)


@pytest.mark.parametrize("cls", [WaveForMaskedLM, WaveForTokenClassification])
def test_a_batch_without_a_single_label_has_no_loss_and_no_gradient(cls):
    model = build(cls)
    for count in (None, 0, torch.tensor(0)):
        loss = model(**stand(TEXTS), labels=torch.full((3, 6), -100), num_items_in_batch=count).loss
        loss.backward()
        assert loss == 0
        assert all((parameter.grad == 0).all() for parameter in model.parameters() if parameter.grad is not None)


def test_the_loss_of_an_answer_is_that_of_its_text_alone():
    """Padding is no place where an answer could be, so it takes no share of the probability."""
    model = build(WaveForQuestionAnswering).double()
    start, end = torch.tensor([1, 0, 2]), torch.tensor([4, 0, 3])
    together = model(**stand(TEXTS, right=5), start_positions=start, end_positions=end).loss
    alone = [
        model(torch.tensor([text]), start_positions=start[row : row + 1], end_positions=end[row : row + 1]).loss
        for row, text in enumerate(TEXTS)
    ]
    torch.testing.assert_close(together, torch.stack(alone).mean(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("outside", [-1, 4, 5, 6, 99])
def test_an_answer_outside_its_text_takes_no_part(outside):
    model = build(WaveForQuestionAnswering)
    inputs, short = stand([TEXTS[0], TEXTS[2]]), {"input_ids": torch.tensor([TEXTS[0]])}
    place = torch.tensor([1, outside])
    loss = model(**inputs, start_positions=place, end_positions=place).loss
    torch.testing.assert_close(loss, model(**short, start_positions=place[:1], end_positions=place[:1]).loss)
    nowhere = torch.tensor([99, 99])
    loss = model(**inputs, start_positions=nowhere, end_positions=nowhere).loss
    loss.backward()
    assert loss == 0
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_answers_are_finite_in_half_types(dtype):
    model = build(WaveForQuestionAnswering, initializer_range=0.02).to(dtype)
    place = torch.tensor([0, 0, 1])
    output = model(**stand(TEXTS), start_positions=place, end_positions=place)
    output.loss.backward()
    assert output.loss.isfinite()
    assert output.start_logits.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)


@pytest.mark.parametrize("cls", [WaveForMaskedLM, WaveForTokenClassification, WaveForMultipleChoice])
def test_labels_out_of_range_are_named(cls):
    model = build(cls)
    inputs = stand(TEXTS)
    if cls is WaveForMultipleChoice:
        inputs, labels, allowed = {"input_ids": torch.tensor([[[5], [6], [7]]])}, torch.tensor([77]), 3
    else:
        labels = torch.full((3, 6), -100)
        labels[0, 0], allowed = 77, model.config.vocab_size if cls is WaveForMaskedLM else 3
    with pytest.raises(IndexError, match=rf"`labels` must lie in 0 \.\.\. {allowed - 1},.*got 77 \.\.\. 77"):
        model(**inputs, labels=labels)


@pytest.mark.parametrize(
    "inputs", [{"input_ids": torch.tensor([[5, 6]])}, {"inputs_embeds": torch.zeros(1, 2, 10)}, {}]
)
def test_choices_without_their_axis_are_named(inputs):
    with pytest.raises(ValueError, match=r"`input_ids` must have the shape \(batch size, choices, length\).*got"):
        build(WaveForMultipleChoice)(**inputs)


# Checkpoints


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[type, Any]:
    folders = {}
    for cls in (WaveModel, *HEADS):
        folders[cls] = tmp_path_factory.mktemp(cls.__name__)
        build(cls).save_pretrained(folders[cls])
    return folders


@pytest.mark.parametrize("source", [WaveModel, *HEADS])
@pytest.mark.parametrize("target", [WaveModel, *HEADS])
def test_any_checkpoint_loads_through_any_head_and_new_weights_are_reported(folders, source, target):
    auto_class = HEADS.get(target, AutoModel)
    # As BERT's, three heads call their last map `classifier`; that of the choices has another shape.
    alike = {WaveForSequenceClassification, WaveForTokenClassification}
    differs = len({source, target} & alike) == 1 and WaveForMultipleChoice in (source, target)
    model, report = auto_class.from_pretrained(
        folders[source], output_loading_info=True, ignore_mismatched_sizes=differs
    )
    assert type(model) is target
    if differs:
        assert {name for name, *_ in report["mismatched_keys"]} == {"classifier.weight", "classifier.bias"}
    elif target is WaveModel or source is target or {source, target} == alike:
        assert not report["missing_keys"]
    else:
        new = {name for name in build(target).state_dict() if not name.startswith("wave.")}
        assert set(report["missing_keys"]) == new - {"decoder.weight"}
    body = model if target is WaveModel else model.wave
    expected = build(source)
    expected = expected if source is WaveModel else expected.wave
    for name, tensor in expected.state_dict().items():
        assert torch.equal(body.state_dict()[name], tensor), name


def test_the_decoder_is_the_word_table_and_is_saved_once(folders):
    model = WaveForMaskedLM.from_pretrained(folders[WaveForMaskedLM])
    assert model.decoder.weight is model.wave.embeddings.word_embeddings.weight
    assert model.get_output_embeddings() is model.decoder
    with safe_open(folders[WaveForMaskedLM] / "model.safetensors", framework="pt") as file:
        tables = [name for name in sorted(file.keys()) if list(file.get_slice(name).get_shape()) == [40, 10]]
    assert tables == ["wave.embeddings.word_embeddings.weight"]
    model.resize_token_embeddings(47)
    assert model.decoder.weight is model.wave.embeddings.word_embeddings.weight
    assert model.decoder.bias.shape == (47,)
    untied = build(WaveForMaskedLM, tie_word_embeddings=False)
    assert untied.decoder.weight is not untied.wave.embeddings.word_embeddings.weight


# Order


@pytest.mark.parametrize("cls", OF_TOKENS)
def test_a_head_that_needs_order_says_so_on_a_model_without_it(cls, caplog):
    logger = logging.getLogger("transformers")
    logger.propagate = True
    try:
        for settings, warns in (
            ({"position_embedding_type": "none", "conv_kernel_size": None}, True),
            ({"position_embedding_type": "absolute", "conv_kernel_size": None}, True),
            ({"position_embedding_type": "none"}, False),
        ):
            caplog.clear()
            library_logging.warning_once.cache_clear()
            build(cls, **settings)
            said = [record.message for record in caplog.records if "no token sees the neighbours" in record.message]
            assert bool(said) is warns
            if warns:
                assert cls.__name__ in said[0]
                assert "`conv_kernel_size`" in said[0]
    finally:
        logger.propagate = False


# Training


class Rows(Dataset):
    """Sixteen rows in which the number of labels differs, so that a mean of means is not the mean."""

    def __init__(self, cls: type):
        torch.manual_seed(3)
        ids = torch.randint(1, 40, (16, 8))
        asked = torch.rand(16, 8) < torch.linspace(0.1, 0.9, 16)[:, None]
        self.rows = []
        for row in range(16):
            if cls is WaveForMultipleChoice:
                inputs = {"input_ids": ids[row].view(2, 4), "labels": torch.tensor(row % 2)}
            elif cls is WaveForQuestionAnswering:
                inputs = {"input_ids": ids[row], "start_positions": torch.tensor(row % 8)}
                inputs["end_positions"] = torch.tensor(7)
            else:
                inputs = {"input_ids": ids[row], "labels": (ids[row] % 3).where(asked[row], -100)}
            self.rows.append(inputs)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
        return self.rows[row]


def train(cls: type, folder: Any, batch: int, accumulate: int) -> torch.Tensor:
    model = build(cls)
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulate,
        max_steps=2,
        learning_rate=0.1,
        optim="sgd",
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=Rows(cls))
    trainer._get_train_sampler = lambda *_: torch.utils.data.SequentialSampler(trainer.train_dataset)
    trainer.train()
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


@pytest.mark.parametrize("cls", [cls for cls in HEADS if cls is not WaveForSequenceClassification])
def test_gradient_accumulation_4_x_4_equals_16_x_1(cls, tmp_path):
    before = torch.cat([parameter.detach().flatten() for parameter in build(cls).parameters()])
    whole, parts = train(cls, tmp_path, 16, 1), train(cls, tmp_path, 4, 4)
    torch.testing.assert_close(parts, whole, rtol=0, atol=2e-6)
    assert (whole - before).abs().max() > 1e-3


@pytest.mark.parametrize("cls", HEADS)
def test_every_head_is_exported_with_a_free_batch_and_length(cls):
    model = build(cls)
    free = dict.fromkeys(range(3 if cls is WaveForMultipleChoice else 2), torch.export.Dim.AUTO)

    def make(rows: int, length: int) -> dict[str, torch.Tensor]:
        shape = (rows, 2, length) if cls is WaveForMultipleChoice else (rows, length)
        mask = torch.ones(shape, dtype=torch.long)
        mask[..., length // 2 + 1 :] = 0
        return {"input_ids": torch.randint(1, 40, shape), "attention_mask": mask}

    shapes = {"input_ids": free, "attention_mask": free}
    exported = torch.export.export(model, (), kwargs=make(3, 7), dynamic_shapes=shapes, strict=False).module()
    for rows, length in ((1, 1), (2, 19)):
        inputs = make(rows, length)
        torch.testing.assert_close(exported(**inputs)[0], model(**inputs)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cls", HEADS)
@torch.no_grad()
def test_every_head_reads_documents_in_chunks(cls):
    model = build(cls).double()
    inputs = stand(TEXTS, left=2, right=1)
    if cls is WaveForMultipleChoice:
        inputs = {name: value[None] for name, value in inputs.items()}
    whole = model(**inputs)[0]
    model.config.chunk_length = 4
    parts = model(**inputs)[0]
    if cls in (WaveForMaskedLM, WaveForTokenClassification):  # what they say about padding means nothing
        is_token = inputs["attention_mask"] == 1
        whole, parts = whole[is_token], parts[is_token]
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-12)


def test_positions_of_one_axis_are_those_of_every_choice():
    model, ids, places = build(WaveForMultipleChoice), torch.tensor([[[5, 9, 2], [7, 2, 4]]]), torch.tensor([2, 0, 1])
    expected = model(ids, position_ids=places.expand(1, 2, 3)).logits
    torch.testing.assert_close(model(ids, position_ids=places).logits, expected, rtol=0, atol=0)


def test_packed_choices_are_refused():
    with pytest.raises(ValueError, match="`cu_seq_lens` must be None for multiple choice"):
        build(WaveForMultipleChoice)(torch.tensor([[[5, 9, 2]]]), cu_seq_lens=torch.tensor([0, 1, 3]))
