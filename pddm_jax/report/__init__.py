"""Reports: the results, retrieval examples and embedding of a run in one HTML file."""
