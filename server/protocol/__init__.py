"""One module per wire protocol: frames to events, messages to frames."""
