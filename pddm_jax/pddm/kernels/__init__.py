"""What mining is about as Pallas kernels: all scores, and the best of them. `scoring` chooses by device."""
