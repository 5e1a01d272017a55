"""The fused score-and-mine reduction as Pallas kernels. `scoring` chooses by device; no user does."""
