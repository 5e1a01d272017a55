"""Command lines with fields of every value: exit code 2 and one line, or a config that works."""

import contextlib
import io
import sys
import warnings

import jax
import jax.numpy as jnp
import optax
from absl import flags
from hypothesis import strategies as st

from experiments.command import LOWER, Experiment
from pddm_jax.config.check import accepted, check_machine
from pddm_jax.config.rules import RULES
from pddm_jax.losses.objectives import make_objective
from pddm_jax.system import cli, errors
from pddm_jax.training import recipe
from pddm_jax.training.optimizer import make_optimizer
from tests.drills.fuzz_core import REFUSED, VALUE, Target, Wrong, attempt, check_line

EXPERIMENTS = ("quickstart", "fashion_mnist", "folder", "cars196", "imagenet2010", "zero_shot")
WORDS = (
    *(
        "",
        " ",
        "0",
        "1",
        "-1",
        "2",
        "3",
        "7",
        "0.5",
        "1e-3",
        "1e400",
        "-0.0",
        "nan",
        "inf",
        "-inf",
        "True",
        "false",
        "None",
        "none",
    ),
    *(
        "2147483647",
        "2147483648",
        "99999999999999999999999",
        "1e308",
        "0x10",
        "1_000",
        "٣",
        "[]",
        "(1,)",
        "(1, 2",
        "{}",
        "'x'",
        "\n",
    ),
    *(
        "small_cnn",
        "resnet50",
        "alexnet",
        "pddm",
        "triplet",
        "multi_similarity",
        "softmax",
        "contrastive",
        "sgd",
        "adamw",
        "cosine",
    ),
    *(
        "constant",
        "bfloat16",
        "float16",
        "batch",
        "anchor",
        "positive",
        "glyphs",
        "folder",
        "crop",
        "shift",
        "bbox",
        "/",
        "/dev/zero",
    ),
    *(
        "/etc/passwd",
        "/nowhere",
        "a\0b",
        "\udcff",
        "x" * 5000,
        "😀",
        "%s",
        "--",
        "=",
        "__import__('os')",
        "lambda: 1",
        "1;2",
        "1,2",
    ),
)
_value = st.one_of(
    st.sampled_from(WORDS),
    st.sampled_from(WORDS),
    st.integers().map(str),
    st.floats().map(repr),
    st.text(max_size=8),
)
FIELDS = (
    *sorted(RULES),
    "nothing",
    "data",
    "network.nothing",
    "data.root.x",
    "__class__",
    "train.steps.real",
    "objective._fields",
    "to_json",
)
_flag = st.one_of(
    st.tuples(st.sampled_from(FIELDS).map(lambda x: f"--config.{x}"), _value),
    st.tuples(st.sampled_from(FIELDS).map(lambda x: f"--config.{x}"), _value),
    st.tuples(st.sampled_from(FIELDS).map(lambda x: f"--config.{x}"), _value),
    st.tuples(
        st.sampled_from(
            (
                "--config",
                "--workdir",
                "--replay",
                "--coordinator",
                "--process_id",
                "--nothing",
                "x",
                "--config.",
            )
        ),
        _value,
    ),
)


def define_and_parse(name, arguments):
    """The config as the command makes it, with the flags of the process as they were before."""
    experiment = Experiment(lambda: None, name, "runs/none")
    before = {*flags.FLAGS}
    former, sys.argv = sys.argv, ["python", *arguments]
    try:
        warnings.filterwarnings("ignore", "the load_module", DeprecationWarning)  # of ml_collections
        command = cli.Command(
            experiment.main, experiment.define, LOWER, "", experiment.parse, distributed=True
        )
        command.define_flags()
        command.parsed(sys.argv)
        config = accepted(flags.FLAGS.config)
        cli.given_path("--workdir", flags.FLAGS.workdir)
        cli.check_folder("--workdir", cli.given_path("--workdir", flags.FLAGS.workdir))
        cli.check_distributed_flags()
        check_machine(config, 1)
        return config
    finally:
        sys.argv = former
        flags.FLAGS.unparse_flags()
        for flag in {*flags.FLAGS} - before:
            with contextlib.suppress(AttributeError):
                delattr(flags.FLAGS, flag)


def check_config(case):
    name, given, spaced = case
    arguments = [
        word for flag, value in given for word in ([flag, value] if spaced else [f"{flag}={value}"])
    ]

    def parse():
        with contextlib.suppress(SystemExit):
            return define_and_parse(name, arguments)

    outcome = attempt(parse, (), (Exception,))
    if outcome.error is not None:
        code, line = errors.verdict(outcome.error, LOWER)
        if code != errors.MISTAKE:
            raise Wrong(f"exit code {code}: {line[:300]}")
        check_line(line, ("error: ",))
        return REFUSED
    if outcome.value is not None:
        check_works(outcome.value)
    return VALUE


def check_works(config):
    """One step of the objective and the optimizer of a config that was accepted."""
    objective = attempt(
        lambda: make_objective(config.objective.name, **recipe.objective_fields(config)), ("objective",)
    )
    if objective.error is not None:
        return  # refused by `runner.check`, as early
    optimizer = attempt(
        lambda: make_optimizer(**config.optimizer, steps=config.train.steps), ("optimizer",)
    )
    if optimizer.error is not None:
        raise Wrong(f"accepted, and then: {optimizer.error}")
    params = {"params": {"backbone": jnp.ones(3), "head": jnp.ones(2)}, "unit": jnp.ones(2)}

    def update():
        state = optimizer.value.init(params)
        moved, _ = optimizer.value.update(jax.tree.map(jnp.ones_like, params), state, params)
        return optax.apply_updates(params, moved)

    with contextlib.redirect_stderr(io.StringIO()):
        moved = attempt(update, ("optimizer",))
    if moved.error is not None:
        raise Wrong(f"accepted, and then: {moved.error}")


CONFIGS = Target(
    "configs",
    st.tuples(st.sampled_from(EXPERIMENTS), st.lists(_flag, max_size=3).map(tuple), st.booleans()),
    check_config,
    8,
)
TARGETS = (CONFIGS,)
