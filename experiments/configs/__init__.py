"""Configs of the experiments: `get_config(variant)` returns the fields that a run can set."""
