"""NVIDIA's perf_analyzer against both speech models, with real windows."""
