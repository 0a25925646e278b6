"""The pipelines of transformers by task name, with our package and without, one text at a time and in batches."""

import random
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from fresh_process import run_step
from transformers import AutoModelForQuestionAnswering, AutoTokenizer, pipeline
from transformers.pipelines import get_supported_tasks
from without_package import run_pipelines

from wave_network import (
    WaveConfig,
    WaveForMaskedLM,
    WaveForQuestionAnswering,
    WaveForSequenceClassification,
    WaveForTokenClassification,
    WaveModel,
    train_wave_tokenizer,
)

EXAMPLE = Path(__file__).parent.parent / "examples" / "pipelines.py"
answer = runpy.run_path(str(EXAMPLE))["answer"]

NAMES, CITIES = ["Ana Karlsson", "Zoë Åkerblom", "Bo Li"], ["Malmö", "Chattanooga", "Rio de Janeiro"]
FILLERS = ["the", "train", "left", "before", "rain", "and", "met", "in", "on", "monday", "again", "slowly"]
MARKS = [",", ".", "!", "🙂"]
TEXTS = [
    "Ana Karlsson left Malmö on monday .",
    "rain",
    "Zoë  Åkerblom met Bo Li , and Ana Karlsson , in Chattanooga !",
    "the train left Rio de Janeiro again",
    "Bo Li 🙂 met the rain in   Malmö",
]
TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
LONGEST = 48  # tokens, of the models with learned positions
SMALL = {"hidden_size": 32, "hidden_dropout_prob": 0.0, "conv_kernel_size": 3, "initializer_range": 0.3}


def write_text(chooser: random.Random) -> tuple[str, list[tuple[int, int, str]]]:
    """A text, and where which names stand in it."""
    text, names = "", []
    for _ in range(chooser.randint(3, 9)):
        kind, words = chooser.choice([("PER", NAMES), ("LOC", CITIES), ("O", FILLERS), ("O", MARKS)])
        word = chooser.choice(words)
        if kind != "O":
            # Two names side by side would be one.
            text += chooser.choice(FILLERS) + " "
            names.append((len(text), len(text) + len(word), kind))
        text += word + " "
    return text.strip(), names


def write_question(chooser: random.Random, length: int = 5) -> tuple[str, int]:
    """A context of filler words with the answer to any question in it, "gold coin", and where it begins."""
    words = [chooser.choice(FILLERS) for _ in range(length)]
    place = chooser.randint(0, length)
    return " ".join([*words[:place], "Gold Coin", *words[place:]]), len(" ".join([*words[:place], ""]))


def name_labels(*names: str) -> dict[str, Any]:
    return {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}


def train(model: Any, examples: list[dict[str, torch.Tensor]]) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    model.train()
    for example in examples:
        model(**example).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


def make_tagged(tokenizer: Any, chooser: random.Random) -> dict[str, torch.Tensor]:
    rows = [write_text(chooser) for _ in range(16)]
    batch = tokenizer([text for text, _ in rows], padding=True, return_offsets_mapping=True, return_tensors="pt")
    offsets = batch.pop("offset_mapping")
    labels = torch.where(batch["attention_mask"] == 1, 0, -100)
    for row, (_, names) in enumerate(rows):
        for place, (start, end) in enumerate(offsets[row].tolist()):
            for first, last, kind in names:
                if first <= start < end <= last:
                    # What begins a word may be a token of its own, which stands where the next one does.
                    is_first = start == first and offsets[row, place - 1, 0] != start
                    labels[row, place] = TAGS.index(f"{'B' if is_first else 'I'}-{kind}")
    return {**batch, "labels": labels}


def make_asked(tokenizer: Any, chooser: random.Random) -> dict[str, torch.Tensor]:
    rows = [write_question(chooser) for _ in range(16)]
    batch = tokenizer(["where ?"] * 16, [text for text, _ in rows], padding=True, return_tensors="pt")
    starts = [batch.char_to_token(row, start, 1) for row, (_, start) in enumerate(rows)]
    ends = [batch.char_to_token(row, start + len("Gold Coin") - 1, 1) for row, (_, start) in enumerate(rows)]
    return {**batch, "start_positions": torch.tensor(starts), "end_positions": torch.tensor(ends)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A saved model for each task. Those that tag and answer have learned it, the others have random weights."""
    place = tmp_path_factory.mktemp("pipelines")
    # Few tokens, so that names are of several pieces.
    tokenizer = train_wave_tokenizer(
        [*NAMES, *CITIES, *FILLERS * 3, *MARKS, "gold coin where ?"], vocab_size=90, show_progress=False
    )
    kinds: dict[str, tuple[Any, dict[str, Any]]] = {
        "text-classification": (WaveForSequenceClassification, name_labels("x", "y", "z")),
        "fill-mask": (WaveForMaskedLM, {}),
        "token-classification": (WaveForTokenClassification, name_labels(*TAGS)),
        "question-answering": (
            WaveForQuestionAnswering,
            {"position_embedding_type": "absolute", "max_position_embeddings": LONGEST},
        ),
        "feature-extraction": (WaveModel, {"position_embedding_type": "absolute", "max_position_embeddings": LONGEST}),
        "zero-shot-classification": (
            WaveForSequenceClassification,
            name_labels("contradiction", "neutral", "entailment") | {"type_vocab_size": 2},
        ),
    }
    for task, (cls, settings) in kinds.items():
        torch.manual_seed(0)
        model = cls(WaveConfig(vocab_size=len(tokenizer), **SMALL | settings)).eval()
        chooser = random.Random(0)
        if task == "token-classification":
            train(model, [make_tagged(tokenizer, chooser) for _ in range(60)])
        elif task == "question-answering":
            train(model, [make_asked(tokenizer, chooser) for _ in range(40)])
        model.save_pretrained(place / task)
        tokenizer.model_max_length = LONGEST if settings.get("position_embedding_type") == "absolute" else 512
        tokenizer.save_pretrained(place / task)
    return {task: str(place / task) for task in kinds}


@pytest.fixture(scope="module")
def results(folders: dict[str, str]) -> dict[str, Any]:
    return run_pipelines(folders, TEXTS)


def load(folders: dict[str, str], task: str, **settings: Any) -> Any:
    return pipeline(task, model=folders[task], device="cpu", **settings)


@torch.no_grad()
def compute(pipe: Any, *texts: Any, **settings: Any) -> Any:
    """What the model says of one input, without the pipeline."""
    return pipe.model(**pipe.tokenizer(*texts, return_tensors="pt", **settings))


# --- With the package and without -------------------------------------------------------------------------------------


def test_without_the_package_every_pipeline_gives_the_same_bits(folders, results, tmp_path):
    elsewhere = run_step(
        tmp_path,
        "http://127.0.0.1:9",
        "without_package",
        "run_pipelines",
        with_package=False,
        folders=folders,
        texts=TEXTS,
    )
    assert results.pop("origins") == ["wave_network"]
    assert elsewhere.pop("origins") == ["transformers_modules"]
    assert set(results) == set(folders)
    for task, result in results.items():
        assert elsewhere[task] == result, task


def flatten(value: Any) -> list[float]:
    """All numbers, in order; a batch of features has rows for padding, which are zeros once they are cut off."""
    if isinstance(value, dict):
        return flatten(list(value.values()))
    if isinstance(value, list | tuple):
        return [number for part in value for number in flatten(part)]
    return [float(value)] if isinstance(value, int | float) else []


@pytest.mark.parametrize(
    ("task", "settings"),
    [
        ("text-classification", {"top_k": None}),
        ("fill-mask", {"top_k": 20}),
        ("token-classification", {"aggregation_strategy": "average", "ignore_labels": []}),
        ("zero-shot-classification", {"candidate_labels": ["rain", "Malmö", "a train"]}),
    ],
)
def test_a_padded_batch_equals_one_text_at_a_time(task, settings, folders):
    pipe = load(folders, task)
    texts = [f"{text} [MASK]" for text in TEXTS] if task == "fill-mask" else TEXTS
    alone = [pipe(text, **settings) for text in texts]
    together = pipe(texts, batch_size=4, **settings)
    assert re.sub(r"\d\.\d+(e-\d+)?", "", str(together)) == re.sub(r"\d\.\d+(e-\d+)?", "", str(alone))
    assert flatten(together) == pytest.approx(flatten(alone), rel=0, abs=1e-5)


def test_features_of_a_padded_batch_are_those_of_the_text_alone(folders):
    pipe = load(folders, "feature-extraction")
    for text, features in zip(TEXTS, pipe(TEXTS, batch_size=4, return_tensors=True), strict=True):
        expected = compute(pipe, text).last_hidden_state[0]
        torch.testing.assert_close(pipe(text, return_tensors=True)[0], expected, rtol=0, atol=0)
        features = features.reshape(-1, SMALL["hidden_size"])
        torch.testing.assert_close(features[: len(expected)], expected, rtol=0, atol=1e-5)


# --- Each task --------------------------------------------------------------------------------------------------------


def test_classes_are_those_of_the_logits_also_of_cut_texts(folders):
    pipe = load(folders, "text-classification")
    probabilities = compute(pipe, TEXTS[2]).logits[0].softmax(dim=0).tolist()
    found = {entry["label"]: entry["score"] for entry in pipe(TEXTS[2], top_k=None)}
    assert [found[label] for label in "xyz"] == pytest.approx(probabilities, abs=1e-6)
    pipe.tokenizer.model_max_length = LONGEST
    long = " ".join(FILLERS * 50)
    assert pipe(long, truncation=True) == pipe(long + " Malmö", truncation=True)
    assert pipe(long, truncation=True) != pipe(long)


def test_a_trained_tokenizer_has_the_mask_that_fill_mask_fills(folders):
    pipe = load(folders, "fill-mask")
    assert {"[MASK]", "[CLS]", "[SEP]", "[PAD]", "[UNK]"} <= set(pipe.tokenizer.get_vocab())
    text = f"the {pipe.tokenizer.mask_token} left"
    place = pipe.tokenizer(text)["input_ids"].index(pipe.tokenizer.mask_token_id)
    best = compute(pipe, text).logits[0, place].softmax(dim=0).topk(3)
    found = pipe(text, top_k=3)
    assert [entry["token"] for entry in found] == best.indices.tolist()
    assert [entry["score"] for entry in found] == pytest.approx(best.values.tolist(), abs=1e-6)
    (chosen,) = pipe(text, targets=["train"])
    assert chosen["sequence"] == "the train left"
    two = pipe("[MASK] left [MASK]", top_k=2)
    assert [len(of_one) for of_one in two] == [2, 2]


@pytest.mark.parametrize("strategy", ["simple", "first", "average", "max"])
def test_names_are_found_where_they_stand(strategy, folders):
    """Names of one and of many pieces, with accents that the tokenizer drops, after emoji and double spaces."""
    pipe = load(folders, "token-classification", aggregation_strategy=strategy)
    assert max(len(pipe.tokenizer.tokenize(name)) for name in (*NAMES, *CITIES)) > 4
    expected = [
        [("Ana Karlsson", "PER"), ("Malmö", "LOC")],
        [],
        [("Zoë  Åkerblom", "PER"), ("Bo Li", "PER"), ("Ana Karlsson", "PER"), ("Chattanooga", "LOC")],
        [("Rio de Janeiro", "LOC")],
        [("Bo Li", "PER"), ("Malmö", "LOC")],
    ]
    for text, found, names in zip(TEXTS, pipe(TEXTS), expected, strict=True):
        assert [(text[entry["start"] : entry["end"]], entry["entity_group"]) for entry in found] == names


def test_aggregation_joins_the_pieces_of_a_word_as_its_name_says(folders, monkeypatch):
    pipe = load(folders, "token-classification")
    pieces = len(pipe.tokenizer.tokenize("Chattanooga"))
    probabilities = torch.tensor([[0.0, 0.0, 0.1, 0.6, 0.3]] + [[0.0, 0.0, 0.9, 0.1, 0.0]] * (pieces - 1))
    special = torch.tensor([[1.0, 0, 0, 0, 0]])
    logits = torch.cat([special, probabilities, special]).clamp(min=1e-9).log()[None]
    monkeypatch.setattr(pipe.model.classifier, "forward", lambda hidden_states: logits)
    average = probabilities.mean(dim=0).max().item()
    for strategy, groups in {
        "simple": [("LOC", 0.6), ("PER", 0.9)],
        "first": [("LOC", 0.6)],
        "average": [("PER", average)],
        "max": [("PER", 0.9)],
    }.items():
        found = pipe("Chattanooga", aggregation_strategy=strategy)
        assert [entry["entity_group"] for entry in found] == [group for group, _ in groups], strategy
        assert [entry["score"] for entry in found] == pytest.approx([score for _, score in groups], abs=1e-5)
        assert (found[0]["start"], found[-1]["end"]) == (0, len("Chattanooga"))


def test_tags_of_a_text_beyond_the_tokenizers_length_need_a_stride(folders):
    pipe = load(folders, "token-classification", aggregation_strategy="first", stride=24)
    pipe.tokenizer.model_max_length = LONGEST
    text = " and ".join(NAMES * 6)
    found = [text[entry["start"] : entry["end"]] for entry in pipe(text)]
    assert found == NAMES * 6
    assert len(load(folders, "token-classification", aggregation_strategy="first")(text)) == len(found)


@pytest.mark.parametrize("multi_label", [False, True])
def test_zero_shot_scores_are_those_of_entailment(multi_label, folders):
    pipe = load(folders, "zero-shot-classification")
    assert pipe.entailment_id == 2
    labels = ["rain", "Malmö", "a train"]
    logits = torch.cat([compute(pipe, TEXTS[0], f"This is {label}.").logits for label in labels])
    scores = logits[:, [0, 2]].softmax(dim=1)[:, 1] if multi_label else logits[:, 2].softmax(dim=0)
    result = pipe(TEXTS[0], labels, hypothesis_template="This is {}.", multi_label=multi_label)
    found = dict(zip(result["labels"], result["scores"], strict=True))
    assert [found[label] for label in labels] == pytest.approx(scores.tolist(), abs=1e-6)
    assert result["scores"] == sorted(result["scores"], reverse=True)
    turned = compute(pipe, f"This is {labels[0]}.", TEXTS[0]).logits
    assert not torch.allclose(turned, logits[:1], atol=1e-3)  # it sees which of the two is the hypothesis


def test_zero_shot_cuts_the_text_and_not_the_label(folders):
    pipe = load(folders, "zero-shot-classification")
    pipe.tokenizer.model_max_length = LONGEST
    long = " ".join(FILLERS * 20)
    results = [pipe(text, ["rain", "Malmö"]) for text in (long, long + " slowly")]
    assert results[0]["scores"] == results[1]["scores"]
    assert len(set(results[0]["scores"])) == 2


def test_a_text_beyond_learned_positions_is_cut_or_refused_by_name(folders):
    pipe = load(folders, "feature-extraction")
    long = " ".join(FILLERS * 20)
    assert len(pipe(long, truncation=True)[0]) == LONGEST
    with pytest.raises(ValueError, match=r"`max_position_embeddings` \(48\).*truncation=True"):
        pipe(long)


# --- Question answering -----------------------------------------------------------------------------------------------


def load_answering(folders: dict[str, str]) -> tuple[Any, Any]:
    folder = folders["question-answering"]
    return AutoModelForQuestionAnswering.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def test_question_answering_is_a_task_or_transformers_says_that_it_went(folders):
    if "question-answering" in get_supported_tasks():  # before 5.3
        result = load(folders, "question-answering")(question="where ?", context="rain , gold coin again")
        assert result["answer"] == "gold coin"
    else:
        with pytest.raises(KeyError, match="question-answering"):
            load(folders, "question-answering")


@pytest.mark.parametrize("stride", [None, 0, 8])
def test_an_answer_is_found_anywhere_in_a_context_longer_than_the_model(stride, folders):
    model, tokenizer = load_answering(folders)
    chooser = random.Random(1)
    for length in (3, 30, 200):
        context, start = write_question(chooser, length)
        result = answer(model, tokenizer, "where ?", context, stride=stride)
        assert result["answer"] == "Gold Coin"
        assert (result["start"], result["end"]) == (start, start + len("Gold Coin"))
        assert 0.1 < result["score"] <= 1
    assert len(tokenizer("where ?", context)["input_ids"]) > 3 * LONGEST


@torch.no_grad()
def test_an_answer_is_the_best_of_all_windows(folders):
    """Against loops over windows that are read one by one, and not padded."""
    model, tokenizer = load_answering(folders)
    torch.manual_seed(3)
    model.qa_outputs.reset_parameters()
    context = " ".join(TEXTS)
    windows = tokenizer("where ?", context, truncation="only_second", stride=5, return_overflowing_tokens=True)
    assert len(windows["input_ids"]) > 2
    candidates = []
    for encoding in windows.encodings:
        output = model(torch.tensor([encoding.ids]))
        for first, (start, _) in enumerate(encoding.offsets):
            for last in range(first, min(first + 4, len(encoding.ids))):
                if encoding.sequence_ids[first] == encoding.sequence_ids[last] == 1:
                    score = output.start_logits[0, first] + output.end_logits[0, last]
                    candidates.append((score.item(), start, encoding.offsets[last][1]))
    _, start, end = max(candidates)
    result = answer(model, tokenizer, "where ?", context, stride=5, longest=4)
    assert (result["start"], result["end"], result["answer"]) == (start, end, context[start:end])
    share = torch.tensor([score for score, *_ in candidates]).softmax(dim=0).max().item()
    assert result["score"] == pytest.approx(share, abs=1e-5)


# --- The example ------------------------------------------------------------------------------------------------------


def test_the_example_runs_every_task_on_any_checkpoint(folders, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["pipelines.py", folders["text-classification"]])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    printed = capsys.readouterr().out
    parts = dict(part.split("\n", 1) for part in printed.strip().split("\n\n"))
    assert list(parts) == [
        "text-classification",
        "fill-mask",
        "token-classification",
        "zero-shot-classification",
        "feature-extraction",
        "question-answering",
    ]
    assert all(part.strip() for part in parts.values())
