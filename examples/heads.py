"""One body, every head: learn to fill in words, then use the result in every pipeline: `python examples/heads.py`.

Options: a data set, as in `wave-network finetune --dataset`, the number of steps, and a folder for the model. A few
minutes on a CPU name common words. The other heads start with new weights and say nothing sensible until trained.
"""

import sys
from pathlib import Path

from transformers import DataCollatorForLanguageModeling, Trainer, TrainingArguments, pipeline

from wave_network import WaveConfig, WaveForMaskedLM, train_wave_tokenizer
from wave_network.data.load import load_text_data


def main(dataset: str = "bbc_news", steps: str = "300", folder: str = "runs/heads") -> None:
    if Path(folder).exists():
        sys.exit(f"{folder!r} is there already: name another folder")
    texts = load_text_data(dataset).train["text"]
    tokenizer = train_wave_tokenizer(texts, vocab_size=4096, model_max_length=128)
    # Words follow from their neighbours, which a wave layer sees only behind a convolution.
    config = WaveConfig(
        vocab_size=len(tokenizer), hidden_size=128, num_hidden_layers=2, conv_kernel_size=5, hidden_dropout_prob=0.0
    )
    arguments = TrainingArguments(
        output_dir=folder,
        max_steps=int(steps),
        per_device_train_batch_size=32,
        learning_rate=2e-3,
        save_strategy="no",
        report_to="none",
    )
    trainer = Trainer(
        model=WaveForMaskedLM(config),
        args=arguments,
        train_dataset=[{"input_ids": ids} for ids in tokenizer(list(texts), truncation=True)["input_ids"]],
        data_collator=DataCollatorForLanguageModeling(tokenizer),
    )
    trainer.train()
    trainer.save_model(folder)
    tokenizer.save_pretrained(folder)

    for guess in pipeline("fill-mask", model=folder)(f"the prime {tokenizer.mask_token} said that", top_k=3):
        print(f"{guess['score']:6.1%}  {guess['sequence']}")
    for task in ("text-classification", "token-classification", "feature-extraction"):
        model = pipeline(task, model=folder)
        print(f"{task}: {type(model.model).__name__}, {len(model('who scored in the cup final?'))} results")


if __name__ == "__main__":
    main(*sys.argv[1:])
