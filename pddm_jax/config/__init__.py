"""Config fields: their defaults, their allowed values, and their old names."""
