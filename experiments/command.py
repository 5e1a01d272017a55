"""From flags to a run: what a user types, and one line for what a user can mend."""

import logging as python_logging
import re
import sys
from collections.abc import Callable
from pathlib import Path

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from experiments import machine, retrieval
from experiments.runner import Evaluation, run
from pddm_jax import peers, signals

CONFIGS = Path(__file__).parent / "configs"

flags.disclaim_key_flags()  # so that --help of an experiment shows the flags that are defined here


def define_flags(config: str, workdir: str) -> None:
    """--config, --workdir and, for many processes, --distributed."""
    try:
        config_flags.DEFINE_config_file(
            "config",
            str(CONFIGS / f"{config}.py"),
            "Config file, as FILE.py or FILE.py:VARIANT; the variants are told in the file. "
            f"--config.GROUP.FIELD=VALUE sets a field; all of them are in {CONFIGS / 'base.py'}.",
        )
    except (AttributeError, KeyError) as error:
        sys.exit(_no_field(error))
    flags.DEFINE_string("workdir", workdir, "Where the run leaves its files.")
    flags.DEFINE_bool("distributed", False, "Join the other processes (found by JAX on a pod).")
    flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, where JAX cannot find it.")
    flags.DEFINE_integer("num_processes", None, "How many processes, likewise.")
    flags.DEFINE_integer("process_id", None, "Which of them this one is, likewise.")


def _no_field(error: Exception) -> str:
    """In one line what the innermost error tells of a field that the config does not have."""
    told: object = error
    while isinstance(told, Exception) and told.args:
        told = told.args[0]
    return f"error: the config has no field {'; '.join(str(told).splitlines())}"


def parse(arguments: list[str]) -> list[str]:
    """What flags leave of the command line; a slip ends it with one line."""
    try:
        rest: list[str] = flags.FLAGS(arguments)
    except (AttributeError, KeyError) as error:
        sys.exit(_no_field(error))
    except (flags.Error, OSError) as error:  # of a config that raises, the last line of its traceback
        sys.exit(f"error: {re.sub(r'^[A-Za-z]+Error: ', '', str(error).splitlines()[-1].strip())}")
    if len(rest) > 1:
        sys.exit(f"error: unknown argument {rest[1]!r}")
    config = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")[0]
    if not Path(config).is_file():
        sys.exit(f"error: --config: there is no file {config}")
    return rest


def _start_jax() -> None:
    names = "coordinator", "num_processes", "process_id"
    coordinator, count, place = (flags.FLAGS[name].value for name in names)
    if flags.FLAGS.distributed:
        peers.join(coordinator, count, place)
        return
    if any(value is not None for value in (coordinator, count, place)):
        raise ValueError(f"--distributed must be given with --{', --'.join(names)}")
    config = flags.FLAGS.config
    batch = config.data.classes_per_batch * config.data.images_per_class
    parts = max(1, config.network.parts)  # whose value is checked later
    machine.use_all_cores(config.network.name, batch // parts)
    signals.at_once("before a step was made: nothing new to save; the same command starts again", 143)


def launch(body: Callable[[], None]) -> None:
    """Parse the flags and run `body`; what a user can mend ends it with one line, not a traceback.

    With --verbosity=1 the traceback is logged too.
    """

    def main(_: list[str]) -> None:
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)
        logging.get_absl_handler().setFormatter(python_logging.Formatter("%(levelname)s: %(message)s"))
        try:
            machine.use_huge_pages()
            signals.listen_for_interrupts()
            _start_jax()
            with peers.watched():
                body()
        except (ValueError, OSError, FloatingPointError) as error:
            logging.debug("where it came from:", exc_info=True)
            sys.exit(f"error: {error}")
        except KeyboardInterrupt:
            signals.tell_interrupted()
            sys.exit(130)  # as a shell tells it

    app.run(main, flags_parser=parse)


def experiment(name: str, evaluation: Evaluation = retrieval.EVALUATION) -> None:
    """Run what the flags say and print its table."""
    workdir = Path(flags.FLAGS.workdir)
    results = run(flags.FLAGS.config, workdir, name, evaluation)
    if jax.process_index() == 0:
        print(f"{evaluation.table(results)}\nfiles: {workdir}")


def main(name: str, evaluation: Evaluation = retrieval.EVALUATION) -> None:
    """The command of an experiment that does nothing else."""
    define_flags(name, workdir=f"runs/{name}")
    launch(lambda: experiment(name, evaluation))
