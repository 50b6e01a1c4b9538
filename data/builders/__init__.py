"""TFDS builders of the data sets that TFDS lacks or gets wrong; importing this registers them.

Needs tensorflow_datasets (`pip install 'openseg_jax[data]'`); nothing else in the library imports
this package.
"""

from openseg_jax.data.builders.ade20k_semantic import Ade20kSemantic
from openseg_jax.data.builders.cityscapes_semantic import CityscapesSemantic
from openseg_jax.data.builders.coco_object import CocoObject
from openseg_jax.data.builders.coco_stuff import CocoStuff
from openseg_jax.data.builders.pascal_context import PascalContext
from openseg_jax.data.builders.voc2012_segmentation import Voc2012Segmentation

__all__ = [
    "Ade20kSemantic",
    "CityscapesSemantic",
    "CocoObject",
    "CocoStuff",
    "PascalContext",
    "Voc2012Segmentation",
]
