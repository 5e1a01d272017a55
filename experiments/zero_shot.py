"""Name unseen classes by their descriptions: of glyphs, characters by the words of their Unicode names."""

from experiments import command

if __name__ == "__main__":
    command.main("zero_shot")
