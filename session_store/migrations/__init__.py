"""Alembic's migrations of the transcript store; they travel with the package and run when a gateway starts."""

HEAD = "0001"
"""The newest revision: a database that is at it needs no migration."""
