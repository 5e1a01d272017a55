"""The default config under its former name, for config files: `from experiments.configs import base`."""

from pddm_jax.config.defaults import VARIANTS as VARIANTS
from pddm_jax.config.defaults import get_config as get_config
