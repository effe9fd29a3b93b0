"""Trains the punctuation model: `python -m training.punctuation.run`."""
