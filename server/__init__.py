"""The gateway: WebSocket sessions in front of Triton."""
