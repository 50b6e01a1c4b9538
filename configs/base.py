"""Every key that a training config may have, with its default. Other keys are errors."""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

from openseg_jax.models.variants import variant


def get_config(arg: str = "") -> ConfigDict:
    """Returns the defaults, locked against keys that are not here.

    Args:
        arg: not used here; configs take "tiny".
    """
    del arg
    c: Any = ConfigDict()
    c.name = "base"  # for people
    c.seed = 0  # of parameters, order of the data and everything random
    c.steps = 1000  # updates in all
    c.batch_size = 128  # examples of an update, over all devices and processes
    c.accumulate = 1  # parts that a batch is cut into; contrastive losses lose negatives
    c.dtype = "float32"  # of the computation: float32 or bfloat16; parameters are float32
    c.scan = True  # compile one transformer block and loop; False unrolls (faster on CPUs)
    c.remat = False  # recompute blocks in the backward pass to save memory
    c.attention = "auto"  # backend, see ops/attention.py
    c.log_every = 20  # steps
    c.checkpoint_every = 500  # steps
    c.keep = 2  # checkpoints kept

    c.mesh = ConfigDict()
    c.mesh.data = -1  # copies of the model; -1 takes the devices that are left
    c.mesh.fsdp = 1  # devices that share the parameters of one copy
    c.mesh.tensor = 1  # devices that share matrix products
    c.sharding = ()  # (name regex, placement) rules; () takes train/sharding.py's

    c.model = ConfigDict(variant("ViT-B-32").to_dict())  # models/variants.py: CLIPConfig
    # model.text.vocab_size = 0 takes the tokenizer's

    c.task = ConfigDict()
    c.task.name = "clip"  # key of train/setup.py TASKS
    c.task.loss = "softmax"  # or "sigmoid"
    c.task.patch_mean_weight = 0.0  # the same loss on the mean of the patch tokens
    c.task.trainable = ((".*", True),)  # (name regex, bool); each parameter must match

    c.input = ConfigDict()
    c.input.name = "miniature"  # key of INPUTS in the task's train/setup_*.py
    c.input.seed = 0  # which world
    c.input.examples = 10_000_000  # length of a procedural stream
    c.input.shuffle = True  # False for streams that are random already
    c.input.threads = 2  # loading threads
    c.input.workers = 0  # loading processes; 0 loads in threads of the trainer
    c.input.prefetch = 4  # batches made ahead

    c.optim = ConfigDict()
    c.optim.learning_rate = 1e-3  # peak
    c.optim.schedule = "cosine"  # cosine, linear, poly or constant
    c.optim.warmup = 100  # steps
    c.optim.end = 0.0  # the last step's share of the peak
    c.optim.power = 0.9  # of the poly schedule
    c.optim.b1 = 0.9
    c.optim.b2 = 0.98
    c.optim.eps = 1e-8
    c.optim.clip = 1.0  # bound on the global gradient norm
    c.optim.weight_decay = ((".*", 0.0),)  # (name regex, decay)
    c.optim.multiplier = ((".*", 1.0),)  # (name regex, share of the learning rate)
    return c.lock()
