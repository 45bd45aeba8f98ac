"""Data sets: folders of millions of names, tar shards, parquet and Arrow tables; many workers, and restarts."""
