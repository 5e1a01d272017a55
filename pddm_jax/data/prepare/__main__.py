"""Write the images of a data set as ArrayRecord shards: the same bytes, checked once, in a few large files.

python -m pddm_jax.data.prepare --source=cars196 --root=DIR --out=DIR
python -m pddm_jax.data.prepare --source=imagenet2010 --root=DIR --out=DIR --classes=F --ground_truth=F

The folder can then be given wherever the data set's own folder can. Tars are read as they are. A run that
was killed is started again with the same flags, and keeps the shards that are whole. Over many machines,
with `pip install "pddm_jax[beam]"` and folders that all of them see:

python -m pddm_jax.data.prepare ... --runner=NAME -- --FLAG_OF_BEAM=VALUE ...
"""

from pddm_jax.data.prepare.command import COMMAND
from pddm_jax.system import cli

if __name__ == "__main__":
    cli.launch(COMMAND)
