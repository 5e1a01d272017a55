"""ImageNet 2010 by nearest class mean on frozen embeddings. The paper reports top-5 48.2."""

from experiments import command

if __name__ == "__main__":
    command.main("imagenet2010")
