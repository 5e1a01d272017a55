"""What several benchmarks share: timing, tables, compiled steps and the figures read off them."""
