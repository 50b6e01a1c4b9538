"""COCO-Object: a label map of COCO's 80 things, everything else is background."""

from __future__ import annotations

from openseg_jax.data.builders.base import LabelledBuilder

__all__ = ["CocoObject"]


class CocoObject(LabelledBuilder):
    """COCO-Object: a label map of COCO's 80 things, everything else is background."""

    DATA_SET = "coco_object"
    DESCRIPTION = (
        "The 5000 validation pictures of COCO 2017; labels come from COCO-Stuff's maps where the "
        "folder has them, as in published numbers, else they are drawn from the instances."
    )
    HOMEPAGE = "https://cocodataset.org"
    CITATION = """@inproceedings{lin2014microsoft,
  title={Microsoft {COCO}: Common Objects in Context},
  author={Lin, Tsung-Yi and Maire, Michael and Belongie, Serge and Hays, James and Perona, Pietro
    and Ramanan, Deva and Dollar, Piotr and Zitnick, C. Lawrence},
  booktitle={European Conference on Computer Vision},
  year={2014}
}"""
