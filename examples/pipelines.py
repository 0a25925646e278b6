"""Every pipeline of transformers that reads text, by its task name: `python examples/pipelines.py runs/bbc_news`.

Any checkpoint loads for any task; a head that it does not hold is new, and says nothing sensible until it is trained.
Transformers 5.3 took out "question-answering"; `answer` below stands in for it, for contexts of any length.
"""

import argparse
from typing import Any

import torch
from transformers import AutoModelForQuestionAnswering, AutoTokenizer, pipeline

import wave_network  # noqa: F401  registers the model with the Auto classes

TEXT = "Ana Karlsson of Malmo scored twice in the cup final"


@torch.inference_mode()
def answer(
    model: Any, tokenizer: Any, question: str, context: str, *, stride: int | None = None, longest: int = 15
) -> dict[str, Any]:
    """
    The words of a context that answer a question best, as {"score", "start", "end", "answer"}.

    A context that is too long for the model, by the tokenizer's `model_max_length`, is read in windows that overlap by
    `stride` tokens, without it by a quarter. An answer has at most `longest` tokens; its score is its share among all
    answers of all windows.
    """
    windows = tokenizer(
        question,
        context,
        truncation="only_second",
        stride=tokenizer.model_max_length // 4 if stride is None else stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        padding=True,
        return_tensors="pt",
    )
    offsets_WL2 = windows.pop("offset_mapping")
    windows.pop("overflow_to_sample_mapping")
    is_context_WL = torch.tensor(
        [[part == 1 for part in windows.sequence_ids(window)] for window in range(len(offsets_WL2))]
    )
    outputs = model(**windows)
    spans_WLL = outputs.start_logits[:, :, None] + outputs.end_logits[:, None, :]
    is_answer_WLL = is_context_WL[:, :, None] & is_context_WL[:, None, :]
    is_answer_WLL &= torch.ones_like(is_answer_WLL).triu() & torch.ones_like(is_answer_WLL).tril(longest - 1)
    scores = spans_WLL.masked_fill(~is_answer_WLL, -torch.inf).flatten().softmax(dim=0)
    window, first, last = (int(index) for index in torch.unravel_index(scores.argmax(), spans_WLL.shape))
    start, end = int(offsets_WL2[window, first, 0]), int(offsets_WL2[window, last, 1])
    return {"score": float(scores.max()), "start": start, "end": end, "answer": context[start:end]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="runs/bbc_news", help="run folder or model on the Hub")
    name = parser.parse_args().model

    def load(task: str) -> Any:
        print(f"\n{task}")
        return pipeline(task, model=name)

    for result in load("text-classification")(TEXT, top_k=3, truncation=True):
        print(f"  {result['score']:.3f}  {result['label']}")
    for result in load("fill-mask")(TEXT.replace("cup", "[MASK]"), top_k=3):
        print(f"  {result['score']:.3f}  {result['sequence']}")
    for result in load("token-classification")(TEXT, aggregation_strategy="average"):
        print(f"  {result['score']:.3f}  {result['entity_group']}: {TEXT[result['start'] : result['end']]}")
    result = load("zero-shot-classification")(TEXT, candidate_labels=["sport", "politics"])
    for label, score in zip(result["labels"], result["scores"], strict=True):
        print(f"  {score:.3f}  {label}")
    vectors = load("feature-extraction")(TEXT, return_tensors=True)
    print(f"  {vectors.shape[1]} tokens, {vectors.shape[2]} numbers each")

    print("\nquestion-answering")
    model, tokenizer = AutoModelForQuestionAnswering.from_pretrained(name), AutoTokenizer.from_pretrained(name)
    result = answer(model, tokenizer, "Who scored?", TEXT)
    print(f"  {result['score']:.3f}  {result['answer']}")


if __name__ == "__main__":
    main()
