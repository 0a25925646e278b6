"""Trained classifiers at work: a file of texts in, labels out; and exports that run without transformers."""
