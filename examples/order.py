"""A wave layer alone does not see the order of words; behind a convolution it does: `python examples/order.py`."""

import torch

from wave_network import WaveConfig, WaveForSequenceClassification, train_wave_tokenizer

TEXTS = ["dog bites man", "man bites dog"]


def main() -> None:
    tokenizer = train_wave_tokenizer(TEXTS, vocab_size=100, show_progress=False)
    inputs = tokenizer(TEXTS, return_tensors="pt")
    for width in (None, 3):
        torch.manual_seed(0)
        config = WaveConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            initializer_range=0.2,
            position_embedding_type="none",
            conv_kernel_size=width,
        )
        model = WaveForSequenceClassification(config).eval()
        with torch.inference_mode():
            dog, man = model(**inputs).logits
        print(f"conv_kernel_size {width!s:>4}: the logits of {TEXTS[0]!r} and {TEXTS[1]!r} differ by", end=" ")
        print(f"{float((dog - man).abs().max()):.6f}")


if __name__ == "__main__":
    main()
