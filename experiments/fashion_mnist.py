"""Train on five classes of Fashion-MNIST, search the five others."""

from experiments import command

if __name__ == "__main__":
    command.main("fashion_mnist")
