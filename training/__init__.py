"""The training room: data by name or path, the metric, `finetune`, `predict` and the command line."""
