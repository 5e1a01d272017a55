"""Transfer: classification and zero-shot recognition on frozen embeddings, by class or by description."""
