"""Sizes of a run of the benchmark: rows, seeds, N, models and steps."""

from dataclasses import dataclass

from .baselines import MODELS
from .networks import IMAGENET, Budget
from .tasks import TASKS

_FROZEN = tuple(name for name, model in MODELS.items() if not model.is_trained)


@dataclass(frozen=True)
class Preset:
    """One size of the benchmark.

    Attributes:
        name (`str`): Name on the command line.
        num_rows (`int`): Rows of the pool that all tasks share.
        test_rows (`int`): Test rows of each task, at most.
        seeds (`int`): Repetitions, each with other shots and other random weights.
        shots (`dict[str, tuple[int, ...]]`): N of each task.
        finetuned_shots (`dict[str, tuple[int, ...]]`): The N at which LWM-Spectro is fine-tuned, and the head of
            eq. 20 is trained.
        trained_shots (`dict[str, tuple[int, ...]]`): The N at which networks are trained from random weights.
        imagenet_shots (`dict[str, tuple[int, ...]]`): The N at which ImageNet networks are trained; slowest of all.
        models (`tuple[str, ...]`): Names of `MODELS`.
        budget ([`Budget`]): Of every trained model.
        bound_trials (`int`): Trials of the likelihood bound, per class and SNR.
    """

    name: str
    num_rows: int
    test_rows: int
    seeds: int
    shots: dict[str, tuple[int, ...]]
    finetuned_shots: dict[str, tuple[int, ...]]
    trained_shots: dict[str, tuple[int, ...]]
    imagenet_shots: dict[str, tuple[int, ...]]
    models: tuple[str, ...]
    budget: Budget
    bound_trials: int


_PAPER = {name: task.shots for name, task in TASKS.items()}

PRESETS = {
    preset.name: preset
    for preset in (
        Preset(
            "quick",
            num_rows=6000,
            test_rows=420,
            seeds=3,
            shots={
                "joint-lte": (5, 20, 50),
                "joint-mixed": (100, 200),
                "modulation": (2, 16, 128),
                **{name: (16,) for name in TASKS if name.startswith("modulation-")},
            },
            # Networks with random weights need thousands of steps, so that only few can be trained on a CPU.
            finetuned_shots={"joint-lte": (50,)},
            trained_shots={"joint-lte": (50,)},
            imagenet_shots={},
            models=(*_FROZEN, "lwm-head", "lwm-finetuned", "cnn-kojima"),
            budget=Budget(steps=2000, fitted_steps=200, batch_size=16, learning_rates=(2e-3,)),
            bound_trials=10,
        ),
        Preset(
            "standard",
            num_rows=30_000,
            test_rows=2100,
            seeds=5,
            shots={
                **_PAPER,
                "modulation": (2, 4, 8, 16, 64, 256),
                **{name: (16, 256) for name in TASKS if name.startswith("modulation-")},
            },
            finetuned_shots={
                "joint-lte": TASKS["joint-lte"].shots,
                "joint-mixed": (100, 800),
                "modulation": (16, 256),
            },
            trained_shots={"joint-lte": (10, 50, 400), "modulation": (16, 256)},
            # The ImageNet architectures need a GPU: on two cores ResNet-18 takes forty minutes per run.
            imagenet_shots={},
            models=tuple(name for name in MODELS if name not in IMAGENET),
            budget=Budget(steps=3000, fitted_steps=300, batch_size=16, learning_rates=(2e-3,), mixed_precision="bf16"),
            bound_trials=100,
        ),
        Preset(
            "full",
            num_rows=72_000,
            test_rows=4200,
            seeds=5,
            shots=_PAPER,
            finetuned_shots=_PAPER,
            trained_shots=_PAPER,
            imagenet_shots=_PAPER,
            models=tuple(MODELS),
            budget=Budget(steps=5000, fitted_steps=1000, learning_rates=(3e-4, 1e-3, 3e-3)),
            bound_trials=200,
        ),
    )
}
