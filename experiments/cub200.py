"""CUB-200-2011: birds of unseen species. The paper reports Recall@1 58.3."""

from experiments import command

if __name__ == "__main__":
    command.main("cub200")
