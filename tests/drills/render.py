"""The first rendering of the glyphs into a cache, as a command: `python -m tests.drills.render CACHE`."""

from absl import logging

from pddm_jax.data import glyphs
from pddm_jax.system import cli

SIZE = 8


def main(arguments: list[str]) -> None:
    """Render, or read what is rendered."""
    logging.set_verbosity(logging.ERROR)
    split = glyphs.load(arguments[1], SIZE, 0)
    print(f"{len(split.train.labels)} images for training, {len(split.test.labels)} for test")


if __name__ == "__main__":
    cli.launch(cli.Command(main, lambda: None, "nothing", "the same command renders them", rest=True))
