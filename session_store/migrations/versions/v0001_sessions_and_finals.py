"""Sessions, finals, and one row to write to when asked whether the store can be written.

The tables are spelled out, not taken from `session_store.schema`: that one moves on, a migration does not.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_IDENTIFIER = sa.String(128).with_variant(mysql.VARCHAR(128, collation="utf8mb4_bin"), "mysql")
_LONG_TEXT = sa.Text().with_variant(mysql.LONGTEXT(), "mysql")
# MySQL commits after each statement: what a killed migration left behind must not stop the next one.
_TABLE: dict[str, Any] = {"mysql_charset": "utf8mb4", "mysql_engine": "InnoDB", "if_not_exists": True}


def upgrade() -> None:
    """Makes the tables."""
    op.create_table(
        "starling_sessions",
        sa.Column("session_id", _IDENTIFIER, primary_key=True),
        sa.Column("key_id", _IDENTIFIER, nullable=False),
        sa.Column("label", _LONG_TEXT, nullable=False),
        sa.Column("language", sa.String(64), nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("updated_at", sa.Double, nullable=False),
        sa.Column("audio_seconds", sa.Double, nullable=False),
        sa.Column("ended", sa.Boolean, nullable=False),
        **_TABLE,
    )
    for name, columns in (
        ("ix_starling_sessions_created", ["created_at"]),
        ("ix_starling_sessions_key", ["key_id", "created_at"]),
        ("ix_starling_sessions_updated", ["updated_at"]),
    ):
        _create_index(name, columns)
    op.create_table(
        "starling_finals",
        sa.Column(
            "session_id",
            _IDENTIFIER,
            sa.ForeignKey("starling_sessions.session_id", ondelete="CASCADE"),
            primary_key=True,
        ),
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("text", _LONG_TEXT, nullable=False),
        sa.Column("start_s", sa.Double, nullable=False),
        sa.Column("end_s", sa.Double, nullable=False),
        sa.Column("language", sa.String(64), nullable=False),
        sa.Column("confidence", sa.Double, nullable=False),
        sa.Column("punctuated", sa.Boolean, nullable=False),
        **_TABLE,
    )
    op.create_table(
        "starling_heartbeat",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("at", sa.Double, nullable=False),
        **_TABLE,
    )
    row = sa.table("starling_heartbeat", sa.column("id"), sa.column("at"))
    op.execute(row.delete())
    op.execute(row.insert().values(id=1, at=0.0))


def downgrade() -> None:
    """Drops the tables and all transcripts with them."""
    for table in ("starling_heartbeat", "starling_finals", "starling_sessions"):
        op.drop_table(table)


def _create_index(name: str, columns: list[str]) -> None:
    # MySQL 8 knows no CREATE INDEX IF NOT EXISTS.
    existing = sa.inspect(op.get_bind()).get_indexes("starling_sessions")
    if name not in {index["name"] for index in existing}:
        op.create_index(name, "starling_sessions", columns)
