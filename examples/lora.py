"""A LoRA adapter of a trained classifier, for other data: `python examples/lora.py runs/bbc_news reviews.csv`.

The data may have other classes than the run. Without arguments: the run that `make demo` leaves, and BBC News again.
"""

import argparse
from pathlib import Path

import numpy as np
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    pipeline,
)

import wave_network  # noqa: F401  registers the model with the Auto classes
from wave_network.data.load import load_text_data

try:
    from peft import LoraConfig, PeftModel, get_peft_model
except ImportError as error:
    raise ImportError(f'LoRA needs the package peft: pip install "wave-network[lora]" ({error})') from error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", nargs="?", default="runs/bbc_news", help="run folder or model on the Hub")
    parser.add_argument("dataset", nargs="?", default="bbc_news", help="as in `wave-network finetune --dataset`")
    parser.add_argument("--output", help="folder for the adapter; without it the base's name and -lora")
    arguments = parser.parse_args()
    folder = Path(arguments.output or f"{Path(arguments.base).name}-lora")
    if (folder / "adapter_config.json").exists():
        parser.error(f"there is an adapter in {str(folder)!r} already: name another --output")

    data = load_text_data(arguments.dataset)
    tokenizer = AutoTokenizer.from_pretrained(arguments.base)
    # Where the number of classes is another, the classifier starts anew; the adapter holds it either way.
    classes = {
        "id2label": dict(enumerate(data.label_names)),
        "label2id": {name: index for index, name in enumerate(data.label_names)},
        "ignore_mismatched_sizes": True,
    }
    base = AutoModelForSequenceClassification.from_pretrained(arguments.base, **classes)
    model = get_peft_model(base, LoraConfig(task_type="SEQ_CLS"))
    model.print_trainable_parameters()

    columns = [name for name in data.train.column_names if name != "label"]
    train, validation = (
        split.map(lambda row: tokenizer(*(row[name] for name in columns), truncation=True), remove_columns=columns)
        for split in (data.train, data.validation)
    )
    trainer = Trainer(
        model,
        TrainingArguments(
            output_dir=str(folder),
            learning_rate=5e-3,
            num_train_epochs=3,
            per_device_train_batch_size=32,
            eval_strategy="epoch",
            save_strategy="no",
            report_to="none",
        ),
        train_dataset=train,
        eval_dataset=validation,
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=lambda output: {"accuracy": float(np.mean(output.predictions.argmax(-1) == output.label_ids))},
    )
    trainer.train()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)

    # Anyone who has the base needs only the adapter. Merged, it is a Wave Network like any other.
    again = AutoModelForSequenceClassification.from_pretrained(arguments.base, **classes)
    merged = PeftModel.from_pretrained(again, folder).merge_and_unload()
    classify = pipeline("text-classification", model=merged, tokenizer=tokenizer)
    text = data.validation[0]["text"]
    print(f"{folder}: {(folder / 'adapter_model.safetensors').stat().st_size // 1024} kB")
    print(classify(text, truncation=True)[0], text[:80])


if __name__ == "__main__":
    main()
