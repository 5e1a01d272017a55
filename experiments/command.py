"""Command lines of experiments: flags, config files, and the call of a run."""

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
from absl import flags
from ml_collections import config_flags

from experiments import config_file, machine
from experiments.evaluations import EVALUATIONS
from experiments.runner import run
from pddm_jax.config.check import accepted
from pddm_jax.system import cli, signals
from pddm_jax.training import rerun

CONFIGS = Path(__file__).parent / "configs"

LOWER = "data.classes_per_batch, data.images_per_class, data.image_size or the network's width"
"""What to lower if memory runs out; the error message quotes it."""

flags.disclaim_key_flags()  # so that --help of an experiment shows the flags that are defined here


@dataclass
class Experiment:
    """A command with --config and --workdir.

    Attributes:
        body: does the work of the command.
        config: name of the default config file in `configs/`.
        workdir: default of --workdir.
        more: defines further flags.
    """

    body: Callable[[], None]
    config: str
    workdir: str
    more: Callable[[], None] = lambda: None

    def define(self) -> None:
        """Define --config, --workdir and --replay; config files and field names are checked first."""
        config_file.check_names(sys.argv)
        self.arguments, self.none = config_file.without_none(config_file.with_file_first(sys.argv))
        specs = [*config_file.given(self.arguments)] or [str(CONFIGS / f"{self.config}.py")]
        for spec in specs:
            config = config_file.read(spec)
        config_file.check_fields(sys.argv, config)
        self.more()
        config_flags.DEFINE_config_file(
            "config",
            str(CONFIGS / f"{self.config}.py"),
            "Config file, as FILE.py or FILE.py:VARIANT; the file lists its variants. "
            "--config.GROUP.FIELD=VALUE sets a field; pddm_jax/config/defaults.py lists all fields.",
            sys_argv=self.arguments,
        )
        flags.DEFINE_string(
            "workdir", self.workdir, "Folder for the files of the run; an interrupted run resumes from it."
        )
        flags.DEFINE_string(
            "replay", None, "Repeat a diverged step from its record, workdir/diverged-step-N.npz."
        )

    def parse(self, _: list[str]) -> list[str]:
        """Parse the flags, and return the other arguments."""
        try:
            rest: list[str] = flags.FLAGS(self.arguments)
        except (TypeError, IndexError) as error:  # for example, a value for a group
            raise ValueError(f"--config: {config_file.error_text(error)}") from error
        except flags.Error as error:
            config_file.check_value(str(error), self.arguments)
            raise ValueError(re.sub(r"^[A-Z][A-Za-z]*:+ ", "", str(error))) from error
        for optional in self.none:
            group, field = optional.split(".", 1)
            flags.FLAGS.config[group][field] = None
        return rest

    def check(self, _: list[str]) -> None:
        """Check the flags and the config, and configure the CPU, before JAX starts."""
        machine.use_huge_pages()
        if flags.FLAGS.replay is not None:
            cli.check_file("--replay", cli.given_path("--replay", flags.FLAGS.replay))
            return
        config = accepted(flags.FLAGS.config)
        cli.check_folder("--workdir", workdir(), writes=False)
        if not flags.FLAGS.distributed:
            batch = config.data.classes_per_batch * config.data.images_per_class
            machine.use_all_cores(config.network.name, batch // config.network.microbatches)

    def main(self, _: list[str]) -> None:
        """Run the body, or repeat the step of --replay."""
        if flags.FLAGS.replay is not None:
            print(rerun.replay(cli.given_path("--replay", flags.FLAGS.replay)))
            return
        signals.exit_on_signal("no new step was made, so nothing is saved; run the same command again", 143)
        self.body()


def workdir() -> Path:
    """The path given by --workdir."""
    return cli.given_path("--workdir", flags.FLAGS.workdir)


def launch(experiment: Experiment) -> None:
    """Parse the flags and run an experiment; see `pddm_jax.system.cli.launch`."""
    interrupted = "the same command resumes from the last checkpoint, or starts anew if there is none"
    cli.launch(
        cli.Command(
            experiment.main,
            experiment.define,
            LOWER,
            interrupted,
            experiment.parse,
            check=experiment.check,
            distributed=True,
        )
    )


def experiment(name: str) -> None:
    """Run the config of the flags, and print a table of its results."""
    config = flags.FLAGS.config
    results = run(config, workdir(), name)
    if jax.process_index() == 0:
        print(f"{EVALUATIONS[config.evaluation].table(results)}\nfiles: {workdir()}")


def main(name: str) -> None:
    """The command of an experiment without flags of its own."""
    launch(Experiment(lambda: experiment(name), name, f"runs/{name}"))
