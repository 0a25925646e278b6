"""Texts and labels by name or path: `load_text_data` in load.py to train on, `read_texts` in read.py to predict."""
