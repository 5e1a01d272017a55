"""CARS196: cars of unseen models. The paper reports Recall@1 57.4."""

from experiments import command

if __name__ == "__main__":
    command.main("cars196")
