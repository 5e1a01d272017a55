"""Evaluations of trained networks: retrieval, transfer to closed sets, zero-shot classification."""
