"""Alembic's way in: runs the migrations on the connection (and inside the transaction) that the caller provides."""

from alembic import context

from session_store.schema import VERSION_TABLE, metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
)
context.run_migrations()
