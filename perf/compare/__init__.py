"""Starling beside other ways to stream the same weights: same audio, same clocks, one run."""
