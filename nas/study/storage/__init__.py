"""Storage of studies in SQLite or PostgreSQL: locks, the queue of trials, heartbeats."""
