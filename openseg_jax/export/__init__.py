"""Any segmenter as a folder that runs without this library: StableHLO, weights, words.

    export.write(load_segmenter("car", "miniature"), "my_export", size=(128, 128))
    export.load("my_export").picture("photo.jpg", ["zebra", "grass"]).labels

docs/export.md describes the folder.
"""

from openseg_jax.export.folder import load, write
from openseg_jax.export.programs import PLATFORMS

__all__ = ["PLATFORMS", "load", "write"]
