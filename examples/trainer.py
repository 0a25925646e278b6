"""Fine-tune with transformers' own Trainer, as one does BERT: `python examples/trainer.py reviews.csv runs/trainer`.

The file has a column `text` and a column `label`. What `wave-network finetune` does besides is not done here.
"""

import sys
from pathlib import Path

from datasets import load_dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments, pipeline

import wave_network  # registers the model with the Auto classes


def main(file: str, folder: str = "runs/trainer") -> None:
    if Path(folder).exists():
        sys.exit(f"{folder!r} is there already: name another folder")
    data = load_dataset("csv", data_files=file, split="train").class_encode_column("label")
    labels = data.features["label"].names
    data = data.train_test_split(test_size=0.1, stratify_by_column="label", seed=0)

    # The English encoder of the package; a folder of `wave-network distil`, or a model on the Hub, is a name like it.
    start = wave_network.ENGLISH
    tokenizer = AutoTokenizer.from_pretrained(start, model_max_length=256)
    data = data.map(lambda rows: tokenizer(rows["text"], truncation=True), batched=True, remove_columns="text")
    names = {"id2label": dict(enumerate(labels)), "label2id": {name: index for index, name in enumerate(labels)}}
    model = AutoModelForSequenceClassification.from_pretrained(start, hidden_dropout_prob=0.3, **names)

    def compute_metrics(prediction):
        return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}

    arguments = TrainingArguments(
        output_dir=folder,
        num_train_epochs=5,
        learning_rate=1e-3,  # a Wave Network learns at a higher rate than BERT
        per_device_train_batch_size=32,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model="accuracy",
        report_to="none",
    )
    trainer = Trainer(
        model,
        arguments,
        train_dataset=data["train"],
        eval_dataset=data["test"],
        processing_class=tokenizer,  # which pads the batches, too
        compute_metrics=compute_metrics,
    )
    trainer.train()
    trainer.save_model(folder)  # with the tokenizer, and with the code for who has not this package
    print(trainer.evaluate())
    print(pipeline("text-classification", model=folder)("Better than I had hoped"))


if __name__ == "__main__":
    main(*sys.argv[1:])
