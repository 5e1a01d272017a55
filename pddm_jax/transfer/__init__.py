"""What frozen embeddings say of classes that the network was not trained on."""
