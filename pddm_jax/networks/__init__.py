"""Backbones, and networks that embed images with them: by name, or around a Flax module of your own."""

from pddm_jax.networks.embedding import EmbeddingNetwork, embedding_network
from pddm_jax.networks.registry import NETWORKS, Backbone, make_network

__all__ = ["NETWORKS", "Backbone", "EmbeddingNetwork", "embedding_network", "make_network"]
