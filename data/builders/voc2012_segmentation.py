"""PASCAL VOC 2012 with its segmentation masks, which TFDS's own `voc` leaves out."""

from __future__ import annotations

from openseg_jax.data.builders.base import LabelledBuilder

__all__ = ["Voc2012Segmentation"]


class Voc2012Segmentation(LabelledBuilder):
    """PASCAL VOC 2012 with its segmentation masks, which TFDS's own `voc` leaves out."""

    DATA_SET = "voc"
    DESCRIPTION = (
        "The 1449 pictures of PASCAL VOC 2012's segmentation task, validation, with a class for "
        "each pixel: background and 20 things."
    )
    HOMEPAGE = "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/"
    CITATION = """@article{everingham2015pascal,
  title={The {PASCAL} Visual Object Classes Challenge: A Retrospective},
  author={Everingham, Mark and Eslami, S. M. Ali and Van Gool, Luc and Williams, Christopher K. I.
    and Winn, John and Zisserman, Andrew},
  journal={International Journal of Computer Vision},
  volume={111},
  pages={98--136},
  year={2015}
}"""
