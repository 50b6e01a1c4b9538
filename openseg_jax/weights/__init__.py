"""Weights: readers and writers of every format, and `load_clip`, which tells them apart."""

from openseg_jax.weights.folder import load_folder, save_folder
from openseg_jax.weights.load import load_clip
from openseg_jax.weights.loaded import LoadedClip
from openseg_jax.weights.report import Report

__all__ = ["LoadedClip", "Report", "load_clip", "load_folder", "save_folder"]
