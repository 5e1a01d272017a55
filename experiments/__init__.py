"""Experiments: one short file and one config each; see the README for how to run them."""
