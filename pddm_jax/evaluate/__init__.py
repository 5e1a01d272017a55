"""Evaluation of retrieval: exact nearest neighbors, re-ranking, metrics."""
