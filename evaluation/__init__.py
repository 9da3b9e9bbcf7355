"""Evaluation: the paper's tables as commands. Run ``python -m evaluation --help``."""
