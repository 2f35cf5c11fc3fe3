"""Results files -> tables that other tools query: SQLite, Parquet, CSV."""
