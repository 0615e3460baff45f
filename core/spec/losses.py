"""Losses: how wrong a model's outputs are for one example."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from core.spec.base import Float, Part


class CrossEntropy(Part):
    """−log of the probability of the example's class, or of its distribution where labels are learned."""

    kind: Literal["cross_entropy"]


class Hinge(Part):
    """Each class against all others: the sum over outputs of how far each is from the right side of its margin.

    Of an output o that should be 1 or more (or, negated, of one that should be −1 or less) and x = max(0, 1 − o):
    x² / 2s up to x = s, then x − s / 2.
    """

    kind: Literal["hinge"]
    smoothing: Float = Field(
        1.0, gt=0, le=1000, description="s: the kink at the margin becomes a parabola this wide"
    )


class Squared(Part):
    """(output − target)²."""

    kind: Literal["squared"]


class Huber(Part):
    """Of the error e = output − target: e² / 2 up to |e| = δ, then δ (|e| − δ / 2): outliers pull no harder."""

    kind: Literal["huber"]
    delta: Float = Field(1.0, gt=0, le=1e9, description="δ, in units of the target")


class Quantile(Part):
    """Of the error e = target − output: q e where it is positive, else (q − 1) e; its least is at the quantile q."""

    kind: Literal["quantile"]
    q: Float = Field(0.5, gt=0, lt=1, description="share of targets that lie below the outputs of the best model")


ClassLoss = Annotated[CrossEntropy | Hinge, Field(discriminator="kind")]
NumberLoss = Annotated[Squared | Huber | Quantile, Field(discriminator="kind")]
