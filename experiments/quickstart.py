"""Train on half of the characters, find the other half in another typeface: minutes on a CPU."""

from experiments import command

if __name__ == "__main__":
    command.main("quickstart")
