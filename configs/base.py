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
    c.accumulate = 1  # parts that a batch is cut into; only SegCLIP loses negatives by it
    c.dtype = "float32"  # of the computation: float32 or bfloat16; parameters are float32
    c.scan = True  # compile one transformer block and loop; False unrolls (faster on CPUs)
    c.remat = "none"  # what blocks compute again to save memory: full, dots; see models/remat.py
    c.attention = "auto"  # backend, see ops/attention.py
    c.log_every = 20  # steps
    c.checkpoint_every = 500  # steps
    c.keep = 2  # checkpoints kept

    c.mesh = ConfigDict()
    c.mesh.data = -1  # copies of the model; -1, for one of the three, takes what is left
    c.mesh.fsdp = 1  # devices that share the parameters of one copy
    c.mesh.tensor = 1  # devices that share matrix products
    c.sharding = ()  # (name regex, placement) rules; () takes train/sharding.py's

    c.model = ConfigDict(variant("ViT-B-32").to_dict())  # models/variants.py: CLIPConfig
    # model.text.vocab_size = 0 takes the tokenizer's
    c.init = ""  # CLIP to start from, a name or folder: its architecture replaces `model`

    c.task = ConfigDict()
    c.task.name = "clip"  # key of train/setup.py TASKS
    c.task.loss = "softmax"  # or "sigmoid"
    c.task.patch_mean_weight = 0.0  # the same loss on the mean of the patch tokens
    c.task.loss_block = -1  # rows of a tile of image-text pairs; 0: all pairs at once; -1 chooses
    c.task.trainable = ((".*", True),)  # (name regex, bool); each parameter must match

    c.task.segclip = ConfigDict()  # what SegCLIP adds to the CLIP; see models/segclip.py
    c.task.segclip.first_blocks = 10  # of the image tower, before the grouping
    c.task.segclip.centers = 8  # regions that an image is cut into at most
    c.task.segclip.cross_layers = 2  # in which the centres look at the patches
    c.task.segclip.temperature = 0.9  # of the Gumbel softmax
    c.task.segclip.mask_ratio = 0.75  # of the patches, hidden from the reconstruction branch
    c.task.segclip.recon_blocks = 2  # between regions and decoder
    c.task.segclip.decoder_width = 384  # of the decoder that draws hidden patches
    c.task.segclip.decoder_depth = 3  # blocks
    c.task.segclip.decoder_heads = 8  # of its attention
    c.task.segclip.contrastive = 1.0  # weight of each loss; 0 leaves it out
    c.task.segclip.reconstruction = 1.0  # of hidden patches
    c.task.segclip.superpixel = 1.0  # agreement of regions with superpixels
    c.task.segclip.equal_captions = True  # are positives of one another; published: False
    c.task.segclip.cross_batch_kv = "per_image"  # or "torch18": the published training's mixing
    c.task.segclip.scramble_images = 0  # mixed by torch18, those of one device; 0: the whole batch
    c.task.segclip.start_pictures = 0  # whose tokens the centres start from; 0 draws them at random
    c.task.segclip.superpixel_short_side = 224  # of the pictures they are made of, pixels
    c.task.segclip.superpixel_scale = 224.0  # felzenszwalb's; larger gives larger ones
    c.task.segclip.superpixel_sigma = 0.9  # smoothing before, pixels
    c.task.segclip.superpixel_min_size = 224  # pixels
    c.task.segclip.superpixel_parity = ""  # "reference": a patch's id is the mean of its pixels'

    c.task.maft = ConfigDict()  # of maft_stage1 and maft_stage2; see tasks/maft*.py
    c.task.maft.start = -1  # first block that sees masks; -1: 8, or two thirds of fewer blocks
    c.task.maft.size = 0  # pixels a side of the encoder's input; 0: 480, or a small tower's own
    c.task.maft.temperature = 100.0  # what cosines are multiplied with; 0.0 takes the weights' own
    c.task.maft.templates = "vild14"  # of the class names; see text/prompts.py
    c.task.maft.distillation = 0.1  # stage 2: weight of the self-distillation
    c.task.maft.generator = "r101"  # stage 1: of models/generator.py VARIANTS, if not in `init`
    c.task.maft.backbone = ""  # stage 1: file of an ImageNet ResNet to start from, R-103.pkl
    c.task.maft.classes = 1.0  # stage 1: weight of the cross-entropy, in matching too
    c.task.maft.mask = 20.0  # stage 1: of the focal loss
    c.task.maft.dice = 5.0  # stage 1: of the dice loss
    c.task.maft.no_object = 0.1  # stage 1: of a query without segment, in the cross-entropy
    c.task.maft.parity = ""  # "reference": the published training's slips too; see tasks/maft*.py

    c.watch = ConfigDict()
    c.watch.writer = "auto"  # besides metrics.jsonl: tensorboard, files, or clu (needs TensorFlow);
    # auto takes tensorboard where it is installed, else files
    c.watch.images_every = 0  # steps between pictures and histograms of the training; 0 shows none
    c.watch.profile = ""  # steps to profile, "100:105" (the last one not); "" none

    c.input = ConfigDict()
    c.input.name = "miniature"  # miniature, synthetic (noise, for measuring), or the keys of
    # train/pair_inputs.py PAIRS: folder, webdataset, tfds
    c.input.path = ""  # folder of pictures; tar shards (x/{00000..00331}.tar); TFDS's data_dir
    c.input.captions = ""  # captions file in the folder; "" finds captions.* or metadata.*
    c.input.dataset = "coco_captions"  # of TFDS
    c.input.split = "train"  # of TFDS
    c.input.crop = (0.5, 1.0)  # share of a picture's area in a random crop; (1.0, 1.0): centre
    c.input.context = 0  # tokens of a caption; 0 takes the text tower's
    c.input.cache = ""  # folder for indexes of tar shards and superpixels; "" keeps none of these
    c.input.seed = 0  # which world
    c.input.examples = 10_000_000  # length of a procedural stream
    c.input.shuffle = True  # False for streams that are random already
    c.input.threads = 2  # loading threads
    c.input.workers = 0  # loading processes; 0 loads in threads of the trainer
    c.input.prefetch = 4  # batches made ahead

    c.input.masks = ConfigDict()  # of tasks on masks; input.name is miniature or folder
    c.input.masks.labels = ""  # folder of label maps, named as the pictures in input.path
    c.input.masks.suffix = ""  # what a label map's name has beyond its picture's
    c.input.masks.classes = "coco_stuff171"  # of data/vocabularies, or a .txt file
    c.input.masks.split = ""  # of data/splits: masks of its unseen classes are never shown
    c.input.masks.ids = "contiguous"  # values of label maps; or one_based, raw
    c.input.masks.segments = 32  # classes of a picture at most; the largest count
    c.input.masks.crop = 640  # side of a view, or of a miniature scene, pixels
    c.input.masks.short_sides = tuple(range(320, 961, 64))  # one is drawn; () does not resize
    c.input.masks.long_side = 2560  # bound of the other side, pixels
    c.input.masks.colours = True  # whether they vary
    c.input.masks.proposals = "none"  # or noisy, regions, generator (the one in `init`)
    c.input.masks.count = 100  # proposals of a picture
    c.input.masks.stride = 4  # pixels of a view to one of a noisy or region proposal's

    c.optim = ConfigDict()
    c.optim.learning_rate = 1e-3  # peak
    c.optim.schedule = "cosine"  # cosine, cosine_from_one, linear, poly or constant
    c.optim.warmup = 100  # steps
    c.optim.start = 0.0  # the first step's share of the peak, where there is a warm-up
    c.optim.end = 0.0  # the last step's share of the peak
    c.optim.power = 0.9  # of the poly schedule
    c.optim.b1 = 0.9
    c.optim.b2 = 0.98
    c.optim.eps = 1e-8
    c.optim.clip = 1.0  # bound on the global gradient norm
    c.optim.weight_decay = ((".*", 0.0),)  # (name regex, decay)
    c.optim.multiplier = ((".*", 1.0),)  # (name regex, share of the learning rate)
    c.optim.layer_decay = 1.0  # of the rate, block by block towards the input; 1.0: none

    c.average = ConfigDict()  # moving average of the trained parameters; see train/average.py
    c.average.decay = 0.0  # e.g. 0.9999; 0.0: none

    c.evaluate = ConfigDict()  # zero-shot classification while training; see train/zero_shot.py
    c.evaluate.every = 0  # steps; 0: never
    c.evaluate.path = ""  # "miniature", or a folder with one folder of pictures for each class
    c.evaluate.labels = ""  # names in the order of the sorted folders: a list of
    # data/vocabularies or a .txt file; "" takes the folders' names
    c.evaluate.templates = ""  # of text/prompts.py; "": openai80, or car15 for the miniature
    c.evaluate.limit = 0  # pictures at most, spread over the classes; 0: all
    return c.lock()
