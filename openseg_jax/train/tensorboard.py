"""TensorBoard event files, written without TensorFlow.

clu's writer has the same methods, but importing it needs TensorFlow: half a gigabyte that nothing
else of a training uses, and that must match the versions of JAX's own dependencies. The
`tensorboard` package, which whoever looks at a run has anyway, brings the record format along.
"""

from __future__ import annotations

import io
import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from openseg_jax.types import UInt8

_BINS = 30


class TensorBoardWriter:
    """Writes scalars, pictures and histograms; methods and names are those of clu's MetricWriter.

    Args:
        folder: receives a new file `events.out.tfevents.*`; TensorBoard joins those of a folder.

    Raises:
        ImportError: where `tensorboard` is not installed.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        # Generated modules make their classes at import: no checker knows them.
        events: Any = event_pb2
        self._event, self._summary = events.Event, summary_pb2
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        # Time first: TensorBoard reads a folder's files in the order of their names.
        name = f"events.out.tfevents.{time.time_ns() // 1_000_000}.{platform.node()}.{os.getpid()}"
        # Plain files: the package's own file layer would import TensorFlow where there is one.
        self._records = RecordWriter((folder / name).open("ab"))
        self._records.write(
            self._event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString()
        )
        self.flush()

    def _write(self, step: int, values: list[Any]) -> None:
        summary = self._summary.Summary(value=values)
        event = self._event(wall_time=time.time(), step=int(step), summary=summary)
        self._records.write(event.SerializeToString())
        self.flush()

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Records numbers of a step."""
        make = self._summary.Summary.Value
        self._write(step, [make(tag=n, simple_value=float(v)) for n, v in scalars.items()])

    def write_images(self, step: int, images: Mapping[str, UInt8[np.ndarray, "n H W 3"]]) -> None:
        """Records pictures, each name with one or several."""
        values = []
        for name, pictures in images.items():
            for number, picture in enumerate(pictures):
                data = io.BytesIO()
                Image.fromarray(picture).save(data, "PNG", compress_level=1)
                image = self._summary.Summary.Image(
                    height=picture.shape[0],
                    width=picture.shape[1],
                    colorspace=3,
                    encoded_image_string=data.getvalue(),
                )
                tag = name if len(pictures) == 1 else f"{name}/{number}"
                values.append(self._summary.Summary.Value(tag=tag, image=image))
        self._write(step, values)

    def write_histograms(self, step: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Records how the finite numbers of arrays are spread; arrays without any are left out."""
        values = []
        for name, array in arrays.items():
            numbers = np.asarray(array, np.float64).ravel()
            numbers = numbers[np.isfinite(numbers)]
            if not numbers.size:
                continue
            counts, edges = np.histogram(numbers, bins=_BINS)
            spread = self._summary.HistogramProto(
                min=numbers.min(),
                max=numbers.max(),
                num=numbers.size,
                sum=numbers.sum(),
                sum_squares=np.square(numbers).sum(),
                # A bucket reaches from the limit before it to its own; the first one is empty.
                bucket_limit=edges.tolist(),
                bucket=[0, *counts.tolist()],
            )
            values.append(self._summary.Summary.Value(tag=name, histo=spread))
        self._write(step, values)

    def flush(self) -> None:
        """Makes sure that all is on disk."""
        self._records.flush()

    def close(self) -> None:
        """Flushes and ends."""
        self._records.close()
