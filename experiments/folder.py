"""Images of your own, a folder for each class: half of the classes train, the others are searched."""

from experiments import command

if __name__ == "__main__":
    command.main("folder")
