"""What the trainer asks of a method: parameters, a loss, and which parameters learn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from openseg_jax.types import Array, Float, Key, Params, UInt8

Batch = Mapping[str, Array]
# (sum, count) of each quantity, so that means over devices and steps are exact.
Metrics = dict[str, tuple[Array, Array]]
# (regular expression over "a/b/c" names, value); the first that matches the whole name decides.
Rules = Sequence[tuple[str, Any]]


class Task(Protocol):
    """A way to learn. The trainer never looks at what the method is."""

    @property
    def trainable(self) -> Rules:
        """Rules that say True for parameters that learn; every name must match one."""
        ...

    def init(self, key: Key, batch: Batch) -> tuple[Params, Params]:
        """Makes the start of training.

        Args:
            key: for fresh parameters.
            batch: shapes and dtypes of a batch (arrays or `jax.ShapeDtypeStruct`).

        Returns:
            Parameters with the checkpoint's names, and a frozen tree (teachers, tables; may be
            empty) that has no optimiser state and is not saved.
        """
        ...

    def loss(
        self, params: Params, frozen: Params, batch: Batch, *, key: Key
    ) -> tuple[Float[Array, ""], Metrics]:
        """Computes the loss of a batch and what to report; pure and jittable."""
        ...

    def constrain(self, params: Params) -> Params:
        """Returns parameters put back into their domain after an update (often unchanged)."""
        ...


@runtime_checkable
class Watched(Protocol):
    """A task that can show what it does with a few rows of a batch; see `watch.images_every`.

    Both functions are pure and jittable, and take what `Task.loss` takes.
    """

    def pictures(
        self, params: Params, frozen: Params, batch: Batch, *, key: Key
    ) -> dict[str, UInt8[Array, "n H W 3"]]:
        """Draws what the model makes of the rows."""
        ...

    def histograms(
        self, params: Params, frozen: Params, batch: Batch, *, key: Key
    ) -> dict[str, Array]:
        """Collects numbers whose spread says something; not-a-number stands for none."""
        ...


@runtime_checkable
class TwoStage(Protocol):
    """A task whose loss compares examples, and reads each of them through an embedding alone.

    Such a task can be trained in parts that keep all negatives, see `train.cached`. Its loss is
    `contrast(params, encode(params, frozen, batch, key=key), batch)`.
    """

    def encode(self, params: Params, frozen: Params, batch: Batch, *, key: Key) -> Any:
        """Embeds each example by itself.

        Returns:
            A pytree of float arrays with one row an example, in the batch's order.
        """
        ...

    def contrast(
        self, params: Params, embeddings: Any, batch: Batch
    ) -> tuple[Float[Array, ""], Metrics]:
        """Computes the loss and what to report; `params` gives the temperature and the like."""
        ...
