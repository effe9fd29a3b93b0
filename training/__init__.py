"""Trains the models that the project makes itself."""
