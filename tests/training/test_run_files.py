"""config.json and results.json: damage is found and named."""

import json
import shutil

import pytest
from ml_collections import FrozenConfigDict

from experiments.configs import quickstart
from pddm_jax.system.files import read_sealed, write_sealed
from pddm_jax.training.resume import check_same_run, finished, stored_config, update_config
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
    with pytest.raises(ValueError, match=rf"config\.json is damaged: .*{name} (is missing|must be)"):
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


def test_a_missing_config_is_that_of_the_checkpoint_or_named(config, tmp_path):
    assert stored_config(tmp_path) is None
    save(tmp_path / "checkpoints", {1: 0.5}, about={"config": config})
    assert stored_config(tmp_path) == config
    shutil.rmtree(tmp_path / "checkpoints" / "1" / "record")  # as of an old run, or worse
    with pytest.raises(ValueError, match=r"holds checkpoints, but no config\.json"):
        stored_config(tmp_path)


def test_a_damaged_config_without_a_checkpoint_is_named_where_there_are_results(tmp_path):
    (tmp_path / "config.json").write_text("{")
    assert stored_config(tmp_path) is None  # nothing is lost
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        stored_config(tmp_path)


def with_steps(config, steps, **more):
    return FrozenConfigDict(config | {"train": config["train"] | {"steps": steps}} | more)


def test_a_run_whose_rate_depends_on_its_steps_is_not_extended(config, tmp_path):
    config = with_steps(config, 12).to_dict()
    for schedule in ("constant", "cosine"):
        config["optimizer"]["schedule"] = schedule
        write_sealed(tmp_path / "config.json", config)
        if schedule == "constant":
            check_same_run(tmp_path, with_steps(config, 24))
    expected = (
        rf"12 train\.steps.*optimizer\.schedule 'cosine'.*24.*--config\.network\.pretrained={tmp_path}"
    )
    with pytest.raises(ValueError, match=expected):
        check_same_run(tmp_path, with_steps(config, 24))
    with pytest.raises(ValueError, match=r"seed 0 \(here 5\), train\.steps 12 \(here 24\)"):
        check_same_run(tmp_path, with_steps(config, 24, seed=5))


def test_results_of_another_protocol_are_made_again_if_their_checkpoint_is_there(config, tmp_path):
    write_sealed(tmp_path / "results.json", RESULTS | {"protocol": {"pddm_ranking": "all"}})
    fields = with_steps(config, 5)
    for ranking, steps in (("all", 5), ("the 30 nearest", 6)):
        again = finished(tmp_path, with_steps(config, steps), "x", protocol={"pddm_ranking": ranking})
        assert (again is None) == (steps > 5)
    with pytest.raises(
        ValueError, match=r"pddm_ranking 'all' \(here 'none'\), but no checkpoint of step 5"
    ):
        finished(tmp_path, fields, "x", protocol={"pddm_ranking": "none"})
    save(tmp_path / "checkpoints", {5: 0.5})
    assert finished(tmp_path, fields, "x", protocol={"pddm_ranking": "none"}) is None
    with pytest.raises(ValueError, match=r"evaluation 'x', not 'y'"):
        finished(tmp_path, fields, "y")


def test_results_of_fewer_steps_are_kept_by_their_number(config, tmp_path):
    config["train"]["steps"] = 5
    write_sealed(tmp_path / "config.json", config)
    write_sealed(tmp_path / "results.json", RESULTS)
    update_config(tmp_path, config, config["train"])
    assert read_results(tmp_path) == RESULTS
    update_config(tmp_path, config, config["train"] | {"steps": 9999})
    assert read_sealed(tmp_path / "results-5.json", "todo") == RESULTS
    assert not (tmp_path / "results.json").exists()
    assert read_config(tmp_path)["train"]["steps"] == 9999
