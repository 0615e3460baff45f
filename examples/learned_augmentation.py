"""Learn how far training images should be moved at random: shift, rotation and noise, from 200 digits.

python examples/learned_augmentation.py
"""

from running import iterations, learned

from retrograd import service

SPEC = {
    "name": "learned augmentation",
    "problem": {
        "kind": "classifier",
        "dataset": {"name": "digits", "split": {"train": 200, "valid": 800, "test": 797}},
        "model": {"kind": "mlp", "hidden": [50], "activation": "tanh"},
        "outer_loss": "valid",
    },
    "training": {"optimizer": "sgd", "num_steps": 200, "batch_size": 50},
    "hyperparameters": {
        "step_size": {"initial": 0.5},
        "init_scale": {"initial": 0.1},
        "augmentation": {"learn": True, "shift": 0.05, "rotation": 1.0, "noise": 0.02},
    },
    "meta": {"step_size": 0.15, "num_iterations": iterations(__doc__, 25), "evaluation_seeds": 4},
}

with service() as client:
    job = learned(client, SPEC)
    values = job.hyperparameters()["augmentation"]
    for name, before, after, unit in zip(
        ("shift", "rotation", "noise"),
        (0.05, 1.0, 0.02),
        values,
        ("pixels", "degrees", "pixel value"),
        strict=True,
    ):
        print(f"  {name:<14} {before:8.4f} -> {after:.4f} {unit}")
