"""One body, every head: learn to fill in words, then load the result as a classifier, a tagger and the others.

    python examples/heads.py [--steps 300] [--output_dir runs/heads]

Language modelling needs the order of words, so the model has a convolution before its layer (`conv_kernel_size`). A few
minutes on a CPU name common words; they do not make a pretrained BERT.
"""

import argparse
from pathlib import Path

from transformers import (
    AutoModelForMultipleChoice,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainingArguments,
    pipeline,
)

from wave_network import WaveConfig, WaveForMaskedLM, train_wave_tokenizer
from wave_network.data.load import load_text_data


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="bbc_news", help="what `wave-network finetune --dataset` takes")
    parser.add_argument("--steps", type=int, default=300, help="training steps (default: 300)")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/heads"))
    arguments = parser.parse_args(words)

    texts = load_text_data(arguments.dataset).train["text"]
    tokenizer = train_wave_tokenizer(texts, vocab_size=4096, model_max_length=128)
    config = WaveConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        num_hidden_layers=2,
        conv_kernel_size=5,
        hidden_dropout_prob=0.0,
        id2label=dict(enumerate(["no", "yes"])),
    )
    trainer = Trainer(
        model=WaveForMaskedLM(config),
        args=TrainingArguments(
            output_dir=str(arguments.output_dir),
            max_steps=arguments.steps,
            per_device_train_batch_size=32,
            learning_rate=2e-3,
            logging_steps=max(1, arguments.steps // 5),
            save_strategy="no",
            report_to="none",
        ),
        train_dataset=[{"input_ids": ids} for ids in tokenizer(list(texts), truncation=True)["input_ids"]],
        data_collator=DataCollatorForLanguageModeling(tokenizer),
    )
    trainer.train()
    trainer.save_model(arguments.output_dir)
    tokenizer.save_pretrained(arguments.output_dir)

    fill = pipeline("fill-mask", model=str(arguments.output_dir))
    for guess in fill(f"the prime {tokenizer.mask_token} said that", top_k=3):
        print(f"{guess['score']:6.1%}  {guess['sequence']}")
    for auto_class in (
        AutoModelForSequenceClassification,
        AutoModelForTokenClassification,
        AutoModelForQuestionAnswering,
        AutoModelForMultipleChoice,
    ):
        model, report = auto_class.from_pretrained(arguments.output_dir, output_loading_info=True)
        print(f"{type(model).__name__}: new weights are {', '.join(sorted(report['missing_keys']))}")


if __name__ == "__main__":
    main()
