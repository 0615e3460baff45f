"""Distil 800 digits to 100 made-up images, and train on them outside the service, with optax.

python examples/distilled_digits.py
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from running import iterations, learned

from core import datasets
from retrograd import JobSpec, service
from retrograd.exports import Framework, schedule

IMAGES, STEPS = 100, 30
SPEC = {
    "name": "distilled digits",
    "problem": {
        "kind": "classifier",
        "dataset": {"name": "digits", "split": {"train": 600, "valid": 800, "test": 397}},
        "model": {"kind": "logistic_regression"},
        "outer_loss": "valid",
        "synthetic_examples": IMAGES,
    },
    "training": {"optimizer": "sgd", "num_steps": STEPS},
    "hyperparameters": {
        "step_size": {"learn": True, "per": ["step"], "initial": 1.0},
        "init_scale": {"initial": 0.01},
        "l2": {"learn": True, "initial": 0.001},
        "inputs": {"learn": True, "noise": 0.01},
    },
    "meta": {"step_size": 0.03, "num_iterations": iterations(__doc__, 60), "evaluation_seeds": 1},
}
OUTSIDE = """
import jax, jax.numpy as jnp, learned_optax as job, numpy as np, optax
jax.config.update("jax_enable_x64", True)
made_up = job.learned["inputs"], np.arange(len(job.learned["inputs"])) % 10   # images of the ten classes in turn
real = np.load("digits.npz")

def loss(params, inputs, labels):
    logits = inputs @ params["layer_1.weights"] + params["layer_1.biases"]
    return optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

params, optimizer = job.initial(), job.optimizer()
state = optimizer.init(params)
for _ in range(job.about["num_steps"]):
    gradient = jax.grad(lambda params: loss(params, *made_up) + job.penalty(params))(params)
    updates, state = optimizer.update(gradient, state, params)
    params = optax.apply_updates(params, updates)
outside = loss(params, real["inputs"], real["labels"])
print(f"  on real digits {job.about['losses']['train']:8.4f} of the job, {outside:.4f} outside")
"""

with service() as client, tempfile.TemporaryDirectory() as folder:
    job = learned(client, SPEC)
    arrays = job.download(Path(folder) / "job.npz", format="npz")
    schedule.export(job, arrays, Framework.optax, Path(folder))
    real = datasets.load(JobSpec.model_validate(SPEC).problem.dataset).train
    np.savez(Path(folder) / "digits.npz", inputs=real.inputs, labels=real.labels)
    subprocess.run([sys.executable, "-c", OUTSIDE], cwd=folder, check=True)
