"""Benchmarks: what Starling costs and how fast it answers, measured on real speech."""
