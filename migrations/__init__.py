"""The migrations of schema audit: how a database got here; what the schema is stands in sql/."""
