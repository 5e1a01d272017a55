"""Exact nearest neighbours, and the measures of retrieval."""
