"""Old names of config fields, so that runs made before a rename still load."""

from collections.abc import Mapping
from typing import Any

NEW_NAMES = {
    "data.unseen": "data.test_classes",
    "data.validation": "data.val_class_fraction",
    "data.least_area": "data.min_crop_area",
    "data.colour": "data.color_jitter",
    "data.zoom": "data.resize_crop_ratio",
    "network.freeze_statistics": "network.freeze_batch_stats",
    "network.parts": "network.microbatches",
    "objective.per": "objective.mining_scope",
    "optimizer.unit_factor": "optimizer.pddm_lr_multiplier",
    "optimizer.backbone_factor": "optimizer.backbone_lr_multiplier",
}
"""The new name of each field that was renamed."""


def _evaluation(config: Mapping[str, Any]) -> str:
    """The evaluation of an old config without the field `evaluation`, inferred from its groups."""
    return next((name for name in ("transfer", "zero_shot") if name in config), "retrieval")


def with_new_names(config: Mapping[str, Any]) -> dict[str, Any]:
    """A nested config, as in config.json, with old field names replaced and `evaluation` filled in."""
    renamed = dict(config)
    renamed.setdefault("evaluation", _evaluation(config))
    for old, new in NEW_NAMES.items():
        group, _, field = old.partition(".")
        fields = renamed.get(group)
        if isinstance(fields, Mapping) and field in fields:
            _, _, name = new.partition(".")
            renamed[group] = {name if key == field else key: value for key, value in fields.items()}
    return renamed
