"""The core of a session: events in, commands out; no I/O and no clock of its own."""
