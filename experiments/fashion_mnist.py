"""Train on five classes of Fashion-MNIST, search the five others."""

from experiments import runner

if __name__ == "__main__":
    runner.main("fashion_mnist")
