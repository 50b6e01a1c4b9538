"""Checkpoints: state, position in the data, and the config that made them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from openseg_jax.errors import UserError
from openseg_jax.inputs.pipeline import Batches
from openseg_jax.train.state import TrainState


class Checkpoints:
    """The checkpoints of one training, newest last.

    Saving runs in the background; `wait` and `close` wait for it. A checkpoint is there once its
    folder has been renamed into place; what a killed run left half-written is removed on opening,
    so one run at a time may use a folder. With several processes each must make the same calls,
    and all must see the same folder.

    Args:
        folder: where they live, local or gs://.
        keep: how many of the newest stay.
    """

    def __init__(self, folder: str | os.PathLike[str], keep: int = 2) -> None:
        text = os.fspath(folder)
        self.folder = text if "://" in text else str(Path(text).absolute())
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, enable_async_checkpointing=True, cleanup_tmp_directories=True
        )
        handlers = {
            "state": ocp.StandardCheckpointHandler(),
            "data": ocp.JsonCheckpointHandler(),
            "config": ocp.JsonCheckpointHandler(),
        }
        self._manager = ocp.CheckpointManager(self.folder, options=options, item_handlers=handlers)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        # A save of several processes ends when all have written; after an error they may not.
        if kind is None or jax.process_count() == 1:
            self.close()

    def latest(self) -> int | None:
        """Returns the newest step, or None where nothing was saved."""
        return self._manager.latest_step()

    def steps(self) -> list[int]:
        """Lists what is there, oldest first."""
        return sorted(self._manager.all_steps())

    def preempted(self, step: int) -> bool:
        """Tells whether the processes agreed to stop here; each must ask at every step."""
        return self._manager.reached_preemption(step)

    def save(self, step: int, state: TrainState, data: Batches, config: dict[str, Any]) -> None:
        """Starts saving; a step that is there already is left alone."""
        if self._manager.latest_step() == step:
            return
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state.fields()),
                data=ocp.args.JsonSave(data.get_state()),
                config=ocp.args.JsonSave(config),
            ),
            force=True,
        )

    def restore(
        self, step: int, like: TrainState, data: Batches, config: dict[str, Any]
    ) -> TrainState:
        """Restores state and data position, and warns about settings that have changed.

        Args:
            step: which checkpoint.
            like: shapes, dtypes and shardings to restore to; any mesh and any number of
                processes will do.
            data: iterator that is moved to the saved position.
            config: of this run.

        Raises:
            UserError: when the checkpoint does not fit `like`.
        """
        try:
            found = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(like.fields()),
                    data=ocp.args.JsonRestore(),
                    config=ocp.args.JsonRestore(),
                ),
            )
        except (ValueError, KeyError, TypeError, FileNotFoundError) as error:
            raise UserError(
                f"{self.folder}: step {step} does not fit this configuration "
                f"({str(error).splitlines()[0][:200]}); use another --workdir"
            ) from error
        data.set_state(found["data"])
        # Through JSON, as the saved one went: tuples become lists.
        for name, old, new in _changes(found["config"], json.loads(json.dumps(config))):
            logging.warning("resumed with %s = %r; the checkpoint had %r", name, new, old)
        return TrainState(**found["state"])

    def restore_host(self, step: int | None = None) -> dict[str, Any]:
        """Reads a whole state's fields as arrays on the host, whoever wrote it on what mesh.

        Args:
            step: which checkpoint; None takes the newest.
        """
        step = self.latest() if step is None else step
        if step is None:
            raise UserError(f"{self.folder}: expected a checkpoint, got none; train first")
        known = self._manager.item_metadata(step)["state"]
        # Arrays that take no memory: orbax asks for kind, shape and type only.
        like = jax.tree.map(lambda x: np.broadcast_to(np.zeros((), x.dtype), x.shape), known)
        restored = ocp.args.Composite(state=ocp.args.StandardRestore(like))
        return self._manager.restore(step, args=restored)["state"]

    def restore_params(self, step: int | None = None) -> Any:
        """Reads the parameters alone, as host arrays, for export and evaluation."""
        return self.restore_host(step)["params"]

    def wait(self) -> None:
        """Waits until what was saved is there for good."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for saves that are under way, and ends."""
        self.wait()
        self._manager.close()


def _changes(old: Any, new: Any, name: str = "") -> list[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        out = []
        for key in sorted(set(old) | set(new)):
            inner = f"{name}.{key}" if name else key
            out += _changes(old.get(key), new.get(key), inner)
        return out
    return [] if old == new else [(name, old, new)]
