"""Tune the schedule of a transformer trained by AdamW: a step size for every step, a decay for every group of weights.

python examples/transformer_schedule.py
"""

from running import iterations, learned

from retrograd import service

STEPS = 60
SPEC = {
    "name": "transformer schedule",
    "problem": {
        "kind": "classifier",
        "dataset": {"name": "digits", "split": {"train": 1000, "valid": 400, "test": 397}},
        "model": {"kind": "transformer", "tokens": "rows", "width": 16, "heads": 2, "blocks": 1, "hidden": 32},
        "outer_loss": "valid",
    },
    "training": {"optimizer": "adamw", "num_steps": STEPS, "batch_size": 100},
    "hyperparameters": {
        "step_size": {"learn": True, "per": ["step"], "initial": 0.003},
        "weight_decay": {"learn": True, "per": ["group"], "initial": 0.01},
        "epsilon": {"initial": 1e-3},
        "init_scale": {"learn": True, "per": ["group"], "initial": 0.15},
    },
    "meta": {
        "step_size": 0.1,
        "num_iterations": iterations(__doc__, 30),
        "evaluation_seeds": 4,
        "safeguard": {"every": 5, "shrink": 0.5},
    },
}

with service() as client:
    job = learned(client, SPEC)
    schedule = job.hyperparameters()["step_size"]
    for start in range(0, STEPS, STEPS // 6):
        print(f"  step {start:>3}: step size {schedule[start]:.4f}  {'#' * round(1000 * schedule[start])}")
