"""Images on disk as ArrayRecord shards."""
