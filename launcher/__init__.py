"""Makes one machine ready and runs Triton on it: weights, environment, model repository, supervision."""
