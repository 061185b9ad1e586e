"""How large a run of the benchmark is: rows, seeds, N, models and steps."""

from dataclasses import dataclass

from .baselines import MODELS
from .networks import IMAGENET, Budget
from .tasks import TASKS

_FROZEN = tuple(name for name, model in MODELS.items() if not model.is_trained)


@dataclass(frozen=True)
class Preset:
    """One size of the benchmark.

    Attributes:
        name (`str`): As the command line has it.
        num_rows (`int`): Of the pool that all tasks share.
        test_rows (`int`): Of each task, at most.
        seeds (`int`): Repetitions, each with other shots and other random weights.
        shots (`dict[str, tuple[int, ...]]`): N of each task.
        finetuned_shots (`dict[str, tuple[int, ...]]`): Those of them that LWM-Spectro is fine-tuned on, and eq. 20's
            head trained.
        trained_shots (`dict[str, tuple[int, ...]]`): Those of them that networks are trained on from random weights.
        imagenet_shots (`dict[str, tuple[int, ...]]`): Those of them that ImageNet's are, which take longest.
        models (`tuple[str, ...]`): Names of `MODELS`.
        budget ([`Budget`]): Of every trained model.
        bound_trials (`int`): Of the likelihood bound, a class and an SNR.
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
            # Networks with random weights need thousands of steps, so that on a CPU few can be trained.
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
            # ImageNet's architectures are for a GPU: on two cores ResNet-18 takes forty minutes a run.
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
