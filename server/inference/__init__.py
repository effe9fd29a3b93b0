"""The way to Triton: client, scheduler, health."""
