"""The archive of many stations: Parquet shards, images named by their content, and what parts were decided with."""
