"""Prepare: write the images of a data set as ArrayRecord shards."""
