"""Encoded images in files, records, tars and TFDS stores, and their decoding."""
