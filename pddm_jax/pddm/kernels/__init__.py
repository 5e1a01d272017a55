"""Pallas kernels of mining: PDDM scores on GPUs, scores and hardest partners on TPUs (see `backends`)."""
