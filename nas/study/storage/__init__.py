"""Where studies are kept: SQLite or PostgreSQL, locks, heartbeats."""
