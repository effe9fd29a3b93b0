"""The Python client for Starling, with resume."""
