"""The contract of pg_daybook, in sentences."""
