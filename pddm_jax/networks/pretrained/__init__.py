"""Published weights: readers of PyTorch and safetensors files, and the names of their tensors."""
