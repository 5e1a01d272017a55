"""The allowed values of every config field."""

import difflib
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from pddm_jax import data
from pddm_jax.data.from_python import ARRAYS, PATHS
from pddm_jax.data.load import LISTED
from pddm_jax.data.transforms import AUGMENT
from pddm_jax.losses.objectives import OBJECTIVES
from pddm_jax.networks import NETWORKS
from pddm_jax.pddm.mining import SCOPES
from pddm_jax.system.cli import MAX_WORKERS
from pddm_jax.system.console import one_line
from pddm_jax.types import DTYPES, OPTIMIZERS, SCHEDULES

NONE = ("None", "none")
"""Words that mean None on the command line, for every field that may be None."""

MOST = 2**31 - 1
"""Maximum number of steps, and of other numbers that devices hold as int32."""

LEAST_REAL, MOST_REAL = 1e-30, 1e30
"""Range in which real numbers and their reciprocals are finite and normal in float32."""


class Rule(NamedTuple):
    """The allowed values of a field."""

    accepts: Callable[[Any], bool]
    words: str  # the allowed values, for messages: "FIELD must be WORDS"
    optional: bool = False  # whether it may be None

    def check(self, name: str, value: object) -> None:
        """Raise a ValueError that names the field if the value is not allowed."""
        if value is None and self.optional:
            return
        if value is None or not self.accepts(value):
            shown = one_line(repr(value))
            raise ValueError(
                f"{name} must be {self.words}{' or None' if self.optional else ''}, "
                f"got {shown if len(shown) < 200 else f'{shown[:200]} ...'}"
            )


def integer(low: int, high: int = MOST) -> Rule:
    """An int, but not a bool, from low to high."""
    return Rule(lambda x: type(x) is int and low <= x <= high, f"an integer from {low} to {high}")


def real(low: float, high: float, *, above: bool = False, below: bool = False) -> Rule:
    """A float or int, but not a bool, from low to high; `above` excludes low, and `below` excludes high."""

    def accepts(x: Any) -> bool:
        if type(x) not in (int, float) or not low <= x <= high:
            return False
        return not (above and x == low) and not (below and x == high)

    words = f"{'above' if above else 'at least'} {low:g} and {'below' if below else 'at most'} {high:g}"
    return Rule(accepts, f"a number {words}")


def choice(names: Collection[str]) -> Rule:
    """One of the given names."""
    return Rule(lambda x: isinstance(x, str) and x in names, f"one of {sorted(names)}")


def text(what: str) -> Rule:
    """A str that is not blank and has no null character; `what` describes it in messages."""
    return Rule(lambda x: isinstance(x, str) and bool(x.strip()) and "\0" not in x, what)


def integers(low: int, high: int = MOST) -> Rule:
    """A tuple or list, which may be empty, of ints from low to high."""
    each = integer(low, high)
    return Rule(
        lambda x: isinstance(x, tuple | list) and all(map(each.accepts, x)),
        f"a tuple, each element {each.words}",
    )


def optional(rule: Rule) -> Rule:
    """The same rule, which also allows None."""
    return rule._replace(optional=True)


FLAG = Rule(lambda x: type(x) is bool, "True or False")
POSITIVE = real(LEAST_REAL, MOST_REAL)
NOT_NEGATIVE = real(0, MOST_REAL)
_TEXT_OF_PATH = text("a path that is not empty and does not begin with --")
PATH = optional(
    _TEXT_OF_PATH._replace(accepts=lambda x: _TEXT_OF_PATH.accepts(x) and not x.startswith("--"))
)
WORDS = optional(text("a string that is not empty"))

EVALUATIONS = ("retrieval", "transfer", "zero_shot")

RULES = {
    "seed": integer(0, 2**32 - 1),
    "evaluation": choice(EVALUATIONS),
    "data.name": choice((*data.DATASETS, *LISTED, ARRAYS, PATHS)),
    "data.root": PATH,
    "data.classes": PATH,
    "data.ground_truth": PATH,
    "data.image_size": optional(integer(1, 16_384)),
    "data.max_pixels": integer(1, 2**40),
    "data.crop": choice(("none", "bbox")),
    "data.on_error": choice(("stop", "skip")),
    "data.test_classes": optional(text("a number of classes or the path of a file")),
    "data.seen_test": real(0, 1, below=True),
    "data.val_class_fraction": real(0, 1, below=True),
    "data.workers": integer(0, MAX_WORKERS),
    "data.classes_per_batch": integer(2, 2**20),
    "data.images_per_class": integer(2, 2**16),
    "data.augment": choice(AUGMENT),
    "data.shift": integer(0, 16_384),
    "data.min_crop_area": real(0, 1, above=True),
    "data.flip": FLAG,
    "data.color_jitter": real(0, 1),
    "data.resize_crop_ratio": real(1, 1000),
    "network.name": choice(NETWORKS),
    "network.embedding_dim": integer(0, 65_536),
    "network.unit_dim": integer(1, 65_536),
    "network.pretrained": PATH,
    "network.freeze_batch_stats": FLAG,
    "network.dtype": choice(DTYPES),
    "network.remat": FLAG,
    "network.microbatches": integer(1, 2**20),
    "objective.name": choice(OBJECTIVES),
    "objective.mining_scope": optional(choice(SCOPES)),
    "objective.alpha": optional(NOT_NEGATIVE),
    "objective.beta": optional(NOT_NEGATIVE),
    "objective.weight": optional(NOT_NEGATIVE),
    "objective.dtype": optional(choice(DTYPES)),
    "objective.margin": optional(NOT_NEGATIVE),
    "objective.base": optional(real(-1, 1)),
    "objective.softmax": optional(NOT_NEGATIVE),
    "objective.temperature": optional(POSITIVE),
    "optimizer.name": choice(OPTIMIZERS),
    "optimizer.learning_rate": POSITIVE,
    "optimizer.weight_decay": NOT_NEGATIVE,
    "optimizer.schedule": choice(SCHEDULES),
    "optimizer.clip_norm": POSITIVE,
    "optimizer.warmup": integer(0),
    "optimizer.pddm_lr_multiplier": POSITIVE,
    "optimizer.backbone_lr_multiplier": POSITIVE,
    "train.steps": integer(1),
    "train.eval_every": integer(1),
    "train.checkpoint_every": integer(1),
    "train.log_every": integer(1),
    "train.max_to_keep": integer(1, 10**6),
    "train.pddm_rerank_depth": integer(0),
    "train.nmi": FLAG,
    "transfer.name": optional(choice(data.CLOSED_SETS)),
    "transfer.root": PATH,
    "transfer.classes": PATH,
    "transfer.ground_truth": PATH,
    "transfer.hierarchy": PATH,
    "transfer.ways": integers(1),
    "transfer.neighbours": integers(1),
    "transfer.probe_steps": integer(0, 10**9),
    "transfer.probe_decay": POSITIVE,
    "transfer.published": WORDS,
    "zero_shot.descriptions": PATH,
    "zero_shot.ids": PATH,
    "zero_shot.conse_top": integer(1),
    "zero_shot.conse_temperature": POSITIVE,
    "zero_shot.ridge_weight": POSITIVE,
    "zero_shot.ranking_margin": POSITIVE,
    "zero_shot.ranking_rate": POSITIVE,
    "zero_shot.ranking_steps": integer(1, 10**9),
    "zero_shot.published": WORDS,
}
"""The rule of every field of every config, by dotted name."""


GROUPS = {name.partition(".")[0] for name in RULES if "." in name}


MISSING = "is missing from the config: start from get_config in pddm_jax/config/defaults.py"
"""What a message says of a field that a config lacks."""


def suggestion(name: str, names: Collection[str] = tuple(RULES)) -> str:
    """What may be meant by a name that is none of `names`: the nearest one, or the fields of its group."""
    group, _, field = name.rpartition(".")
    fields = [other.removeprefix(f"{group}.") for other in names if other.startswith(f"{group}.")]
    if near := difflib.get_close_matches(field, fields, 1):
        return f"did you mean {group}.{near[0]}?"
    if fields:
        return f"{group} has the fields {', '.join(fields)}"
    if near := difflib.get_close_matches(name, names, 1):
        return f"did you mean {near[0]}?"
    return "pddm_jax/config/defaults.py lists all fields"
