"""The fields of a run: one frozen dataclass per table of the TOML file."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class DataConfig:
    """The data, how they are cut for evaluation, and how training images are varied."""

    name: str = "fashion_mnist_10k"
    """A name of ``sharpness datasets``."""
    num_train: int | None = None
    """Use the first so many training examples; all of them when left out."""
    num_test: int | None = None
    """Use the first so many test examples; all of them when left out."""
    context: int | None = None
    """Bytes in each window of a text, which is an example; 128 when left out."""
    num_validation: int = 0
    """Hold out the last so many of the training examples; a target error is that of these, else of the test set."""
    label_noise: float = 0.0
    """The probability with which the label of a training example is replaced by one drawn uniformly from all classes,
    which may be the true one (Zhang et al. 2017); a function of training.seed, so that runs of one seed see the same
    labels, whatever else differs. Held-out and test labels stay; training loss and accuracy are on the noisy ones."""
    evaluation_batch_size: int = 1000
    """Examples per forward pass of evaluations and probes; with batch-statistics norm part of what is measured."""
    crop_padding: int = 0
    """Training images are shifted at random by up to so many pixels, zeros coming in."""
    flip: bool = False
    """Training images are mirrored left to right at random."""


@dataclass(frozen=True)
class ModelConfig:
    """The network."""

    name: str = "f1"
    """A name of ``sharpness models``."""
    norm: Literal["batch", "running", "none", "layer", "rms"] = "batch"
    """``batch``: BatchNorm uses the statistics of the batch it sees; ``running``: running ones in evaluation; ``none``:
    the network without its norms. Of a transformer ``layer``: LayerNorm; ``rms``: RMSNorm."""
    synchronised: bool = False
    """Batch statistics in training are those of the whole batch over all processes (CUDA only), not of each one's."""
    ghost_batch: int | None = None
    """Batch statistics in training are those of so many consecutive examples (Hoffer et al. 2017), not of the batch."""


@dataclass(frozen=True)
class TrainingConfig:
    """The optimiser, its hyperparameters, and the precision that it works in."""

    optimizer: str = "adam"
    """A name of ``sharpness.training.OPTIMIZERS``."""
    learning_rate: float = 1e-3
    batch_size: int = 64
    epochs: int = 30
    """Passes over the training examples; 0 for no bound but those of [budget]."""
    seed: int = 0
    """Seeds the initial weights, the order of the examples, their variation, and the draws of the network itself."""
    start: str | None = None
    """A file of weights to start from instead, or a run whose last ones, from the folder that holds the run folder."""
    momentum: float = 0.9
    """For momentum, nesterov, lars, signum and muon."""
    beta1: float = 0.9
    """The decay of the first moment of adam, of adamw, and of muon where it is adamw."""
    beta2: float = 0.999
    """The decay of their second moment."""
    beta2_half_life: float | None = None
    """In its place, tokens in which the second moment halves: bytes of a text, else examples. Batches of every size
    then remember the same data (Marek et al. 2025)."""
    weight_decay: float = 0.0
    """Added to the gradient as ``weight_decay * w``; of adamw, signum and muon decoupled."""
    trust: float = 1e-3
    """The trust coefficient of lars."""
    clip_norm: float | None = None
    """Scale gradients longer than this down to it."""
    loss: Literal["cross_entropy", "square"] = "cross_entropy"
    """``square``: half the squared distance of the outputs from the one-hot vectors of the classes (Cohen et al. 2021),
    on average over the examples. It is trained on, evaluated and measured."""
    label_smoothing: float = 0.0
    """Of cross-entropy, in training alone: evaluations and measurements are of the loss without it."""
    accumulate: int = 1
    """Cut each batch into so many pieces and add their gradients: the same step with less memory."""
    sam_rho: float | None = None
    """Take the gradient at the worst point within this radius (SAM, Foret et al. 2021)."""
    sam_adaptive: bool = False
    """With a radius in units of the weights (ASAM, Kwon et al. 2021)."""
    proximal: float | None = None
    """The strength lambda of conservative training (Keskar et al. 2017, Appendix E)."""
    proximal_steps: int = 3
    """Inner steps of conservative training."""
    dtype: Literal["float32", "float64"] = "float32"
    autocast: Literal["none", "bfloat16"] = "none"
    """Forward passes of training in this precision."""
    tf32: bool = False
    """Products of training in TF32 where the GPU has it."""
    compile: bool = False
    """Train through ``torch.compile``."""


@dataclass(frozen=True)
class ScheduleConfig:
    """The changes of the learning rate; times are in epochs, which may be fractions."""

    kind: Literal["constant", "steps", "linear", "cosine", "polynomial", "cyclic", "wsd"] = "constant"
    milestones: tuple[float, ...] = ()
    """Epochs at which ``steps`` multiplies the rate by ``factor``."""
    factor: float = 0.1
    final: float = 0.0
    """The end of linear, cosine, polynomial and wsd and the bottom of cyclic, as a share of the rate."""
    decay: float = 0.2
    """The last share of the epochs, over which ``wsd`` (warm-up, stable, decay) falls linearly."""
    power: float = 2.0
    cycle: float = 1.0
    """Length of a cycle of ``cyclic``."""
    warmup: float = 0.0
    """The rate grows linearly for so long first."""
    warmup_from: float = 0.0
    """The rate at the start of the warm-up, as a share of the rate."""
    scaling: Literal["none", "linear", "sqrt"] = "none"
    """The rate belongs to ``base_batch``, and grows with the batch size or its square root."""
    base_batch: int = 256


@dataclass(frozen=True)
class BatchConfig:
    """The changes of the batch size."""

    kind: Literal["constant", "steps", "noise_scale"] = "constant"
    milestones: tuple[float, ...] = ()
    """Epochs at which ``steps`` multiplies the size by ``factor``."""
    factor: float = 5.0
    largest: int | None = None
    """No batch is larger; where ``steps`` asks for more, the learning rate falls by the rest of the factor instead."""
    ratio: float = 1.0
    """``noise_scale`` sets the size to ``sqrt(ratio * B_simple)`` (McCandlish et al. 2018, Appendix D)."""
    every: float = 1.0
    """Epochs between the changes of ``noise_scale``."""


@dataclass(frozen=True)
class AverageConfig:
    """The average of the weights that is kept beside them."""

    kind: Literal["none", "swa", "ema"] = "none"
    start: float = 0.0
    """Epochs before it begins."""
    every: float = 1.0
    """Epochs between the weights that ``swa`` averages: the cycle of the learning rate."""
    decay: float = 0.999
    """Share of the old average that ``ema`` keeps at each update."""
    horizons: tuple[float, ...] = ()
    """In its place, an average for each of these numbers of updates h, which keeps ``1 - 1/h``."""


@dataclass(frozen=True)
class BudgetConfig:
    """The ends of training, of which the first to come counts; its epochs stand in [training]."""

    updates: int | None = None
    examples: int | None = None
    """Training examples seen."""
    train_loss: float | None = None
    """Stop when the loss over the training set is at most this at the end of an epoch."""
    error: float | None = None
    """Stop when the error (share of wrong answers) on the held-out or test examples is at most this."""
    check_every: int = 0
    """Updates between looks at the targets; 0 for the ends of epochs."""
    patience: int | None = None
    """Stop after so many epochs in which the mean training loss has not fallen by ``min_fall`` of its best."""
    min_fall: float = 1e-3


@dataclass(frozen=True)
class MeasureConfig:
    """The measurements that are taken while the weights move."""

    names: tuple[str, ...] = ()
    """Names of ``sharpness.training.MEASURES``: eigenvalue, noise_scale, distance."""
    every: float = 1.0
    """Epochs between measurements."""
    examples: int = 2000
    """Measure on the first so many training examples; 0 for all."""
    keep_every: float = 0.0
    """Epochs between checkpoints that are kept; 0 for the last alone."""
    keep_optimizer: bool = False
    """Keep the optimiser's state beside every checkpoint that is kept: Adam's is two more copies of the weights."""
    test_every: float = 1.0
    """Epochs between evaluations of the test set for the log; the final weights are evaluated in any case."""
    overhead: float = 0.0
    """The share of the time of the updates that a tracker may take, 0.05 for a twentieth, beside all of the above; it
    decides how often and on how many examples, so its rows differ between runs, and the weights do not; 0 for none."""
    quantities: tuple[str, ...] = ()
    """What it measures: names of ``sharpness.training.tracker.QUANTITIES``; all that suit the optimiser if left out."""


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides the weights of one run; device and threads stand in its manifest."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    average: AverageConfig = field(default_factory=AverageConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    measure: MeasureConfig = field(default_factory=MeasureConfig)

    @property
    def run_id(self) -> str:
        """A readable name that ends in the first 8 digits of the SHA-256 of what differs from the defaults.

        A field that is added later leaves the ids of all runs that do not use it as they are.

        >>> RunConfig().run_id
        'f1-fashion_mnist_10k-b64-s0-44136fa3'
        """
        digest = hashlib.sha256(json.dumps(changed_fields(self), sort_keys=True).encode()).hexdigest()
        return f"{self.model.name}-{self.data.name}-b{self.training.batch_size}-s{self.training.seed}-{digest[:8]}"


def changed_fields(config: RunConfig) -> dict[str, dict[str, Any]]:
    """Return the fields that differ from the defaults, by table.

    >>> changed_fields(RunConfig(training=TrainingConfig(seed=1)))
    {'training': {'seed': 1}}
    """
    defaults, tables = asdict(RunConfig()), asdict(config)
    changed = {
        table: {key: value for key, value in values.items() if value != defaults[table][key]}
        for table, values in tables.items()
    }
    return {table: values for table, values in changed.items() if values}
