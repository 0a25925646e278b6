"""Fine-tuning: `finetune` with its settings, its Trainer, what it measures and what it records."""
