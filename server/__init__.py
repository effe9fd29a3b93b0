"""The gateway: WebSocket sessions in front of Triton."""

import os

# ONNX Runtime reports its use to its makers unless told otherwise before it is first imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
