"""Published weights: readers of weight files, and the names of their tensors."""
