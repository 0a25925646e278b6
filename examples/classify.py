"""Classify a few texts with a run: `python examples/classify.py runs/bbc_news "First text" "Second text"`."""

import sys

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import wave_network  # noqa: F401  registers the model with the Auto classes

HEADLINES = [
    "Shares fall as the central bank raises interest rates to a ten-year high",
    "Striker scores twice as the champions win the cup final in extra time",
    "Researchers warn of a security flaw that lets attackers read mail on mobile phones",
]


def main() -> None:
    folder, texts = sys.argv[1], sys.argv[2:] or HEADLINES
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.inference_mode():
        logits = model(**tokenizer(texts, padding=True, truncation=True, return_tensors="pt")).logits
    for text, probabilities in zip(texts, logits.softmax(-1), strict=True):
        best = int(probabilities.argmax())
        print(f"{model.config.id2label[best]:>15}  {probabilities[best]:6.1%}  {text}")


if __name__ == "__main__":
    main()
