"""What the engines on ONNX Runtime share: writing graphs, and greedy decoding with drafts."""
