"""The fused score-and-mine reduction as Pallas kernels. `scoring` chooses by platform; no user does."""
