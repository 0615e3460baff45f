"""Clean data: of 1000 labels 30 % are wrong; learn how much each example should count.

python examples/noisy_labels.py
"""

from running import iterations, learned

from retrograd import service

SPEC = {
    "name": "noisy labels",
    "problem": {
        "kind": "classifier",
        "dataset": {
            "name": "digits",
            "split": {"train": 1000, "valid": 400, "test": 397},
            "corrupted": 0.3,
        },
        "model": {"kind": "logistic_regression"},
        "outer_loss": "valid",
    },
    "training": {"optimizer": "sgd", "num_steps": 60},
    "hyperparameters": {
        "step_size": {"initial": 1.0},
        "init_scale": {"initial": 0.01},
        "example_weights": {"learn": True, "initial": 0.5},
    },
    "meta": {"step_size": 0.2, "num_iterations": iterations(__doc__, 40), "evaluation_seeds": 2},
}

with service() as client:
    job = learned(client, SPEC)
    found = job["losses"]["best"]["measures"]["corrupted_labels_auc"]
    print(f"  told apart     wrong labels from right ones, area under the ROC curve: {found:.3f}")
