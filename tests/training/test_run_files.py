"""config.json and results.json: damage is found and named."""

import json

import pytest
from ml_collections import FrozenConfigDict

from experiments.configs import quickstart
from pddm_jax.system.files import read_sealed, write_sealed
from pddm_jax.training.resume import finished, stored_config
from pddm_jax.training.run_files import read_config, read_results
from tests.helpers.training import save


@pytest.fixture
def config():
    fields = json.loads(quickstart.get_config().to_json())
    return fields | {"image_shape": [9, 9, 1], "devices": 1, "classes": 0, "train_sha256": "0" * 64}


RESULTS = {"evaluation": "x", "protocol": {}, "steps": 5, "params_sha256": "0", "recall": 0.8125}


def test_a_digit_that_changed_in_results_is_seen(tmp_path):
    path = tmp_path / "results.json"
    write_sealed(path, RESULTS)
    assert read_results(tmp_path) == RESULTS
    path.write_text(path.read_text().replace("0.8125", "0.9125"))
    with pytest.raises(
        ValueError, match=r"results\.json is damaged: its content does not match the digest"
    ):
        read_results(tmp_path)
    path.write_text(json.dumps(RESULTS))  # of an earlier version
    assert read_results(tmp_path) == RESULTS


def test_whatever_bit_of_a_sealed_file_flips_it_is_refused_or_the_same(tmp_path):
    path = tmp_path / "x.json"
    write_sealed(path, RESULTS)
    content = path.read_bytes()
    for place in range(len(content)):
        for bit in (0, 2, 5):
            changed = bytearray(content)
            changed[place] ^= 1 << bit
            path.write_bytes(changed)
            try:
                assert read_sealed(path, "todo") == RESULTS, (place, bit)
            except ValueError as error:
                assert "x.json is damaged" in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    ("group", "name", "value"),
    [
        ("train", "steps", None),
        ("train", "steps", "5"),
        ("train", "eval_every", True),
        ("network", "unit_dim", [4]),
        ("network", "remat", None),
        ("optimizer", "learning_rate", "x"),
        ("data", "image_size", None),
        (None, "seed", None),
        (None, "image_shape", None),
        (None, "image_shape", ["a"]),
        (None, "image_shape", 3),
    ],
)
def test_a_config_without_what_is_promised_is_damaged(group, name, value, config, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert read_config(tmp_path) == config
    of = config if group is None else config[group]
    if value is None:
        del of[name]
    else:
        of[name] = value
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=rf"config\.json is damaged: .*{name} (is missing|cannot be)"):
        read_config(tmp_path)


@pytest.mark.parametrize("name", ["devices", "train_sha256", "seed"])
def test_of_a_damaged_config_the_checkpoint_knows_the_fields(name, config, tmp_path):
    save(tmp_path / "checkpoints", {1: 0.5}, about={"config": config})
    lacking = {key: x for key, x in config.items() if key != name}
    (tmp_path / "config.json").write_text(json.dumps(lacking))
    assert stored_config(tmp_path) == config
    write_sealed(tmp_path / "config.json", config)
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    assert stored_config(tmp_path) == config


def test_results_that_no_table_can_be_made_of_are_refused_by_name(config, tmp_path):
    fields = FrozenConfigDict(config | {"train": config["train"] | {"steps": 5}})
    (tmp_path / "results.json").write_text(json.dumps(RESULTS))
    assert finished(tmp_path, fields, "x", [lambda results: results["recall"]]) == RESULTS
    for reader in (lambda results: results["map"], lambda results: results["recall"]["1"]):
        with pytest.raises(ValueError, match=r"results\.json is damaged.*delete it"):
            finished(tmp_path, fields, "x", [reader])
