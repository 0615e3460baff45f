"""Find the features that matter in a table: a penalty for each, learned. Half of its columns are noise.

python examples/feature_penalties.py
"""

import csv
import tempfile
from pathlib import Path

import numpy as np
from running import iterations, learned
from sklearn.datasets import load_diabetes

from retrograd import service

NOISE = 40


def table(path: Path) -> None:
    """A CSV file of patients: ten measurements, forty columns of noise, and how far a disease has come in a year."""
    data = load_diabetes()
    noise = np.random.default_rng(0).normal(size=(len(data.target), NOISE))
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow([*data.feature_names, *(f"noise_{number}" for number in range(NOISE)), "progression"])
        rows.writerows(np.column_stack([data.data, noise, data.target]))


with service() as client, tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "diabetes.csv"
    table(path)
    data = client.datasets.upload(path, name="diabetes", columns={"target": "progression", "task": "regression"})
    spec = {
        "name": "feature penalties",
        "problem": {
            "kind": "regression",
            "dataset": {
                "id": data["id"],
                "split": {"train": 142, "valid": 150, "test": 150},
                "standardise": "all",
            },
            "model": {"kind": "logistic_regression"},
            "outer_loss": "valid",
        },
        "training": {"optimizer": "sgd", "num_steps": 200, "seed": 0},
        "hyperparameters": {
            "step_size": {"initial": 0.05},
            "init_scale": {"initial": 0.01},
            "l2": {"learn": True, "per": ["weight"], "initial": 0.01},
        },
        "meta": {"step_size": 0.1, "num_iterations": iterations(__doc__, 60), "evaluation_seeds": 1},
    }
    job = learned(client, spec)
    penalties = job.hyperparameters()["l2"][:-1]  # the last is the bias's
    columns = client.datasets.get(data["id"])["table"]["columns"]
    features = [column["name"] for column in columns if column["role"] == "feature"]
    least = [features[number] for number in np.argsort(penalties)[:8]]
    print("  least penalised:", ", ".join(least))
    middle = [np.median(penalties[:-NOISE]), np.median(penalties[-NOISE:])]
    print(f"  penalty, median: {middle[0]:.4g} of measurements, {middle[1]:.4g} of noise")
