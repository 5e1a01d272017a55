"""ImageNet-10K by a network trained on ImageNet 2010. The paper reports flat top-1 28.4."""

from experiments import command

if __name__ == "__main__":
    command.main("imagenet10k")
