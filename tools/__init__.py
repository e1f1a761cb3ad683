"""Command-line tools; thin, like train.py and sample.py."""
