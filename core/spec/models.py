"""Models of classifiers and regressions: what stands between an example's features and its outputs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from core.spec.base import Int, Part

MAX_WIDTH = 8192
MAX_CHANNELS = 512
MAX_TOKENS = 1024  # attention holds heads × tokens² numbers for each example

Activation = Literal["tanh", "relu"]


class LogisticRegression(Part):
    """One affine layer and a log-softmax; of a regression, the affine layer alone: linear regression."""

    kind: Literal["logistic_regression"]

    @property
    def hidden(self) -> tuple[int, ...]:
        """No hidden layers."""
        return ()


class MLP(Part):
    """Affine layers with an activation between them, ending in a log-softmax."""

    kind: Literal["mlp"]
    hidden: tuple[Annotated[Int, Field(gt=0, le=MAX_WIDTH)], ...] = Field(min_length=1, max_length=8)
    activation: Activation = "tanh"


class CNN(Part):
    """Convolutions, each with an activation and the mean over squares of pixels after it, and one affine layer.

    Of images: data with height and width.
    """

    kind: Literal["cnn"]
    channels: tuple[Annotated[Int, Field(gt=0, le=MAX_CHANNELS)], ...] = Field(
        (8, 16), min_length=1, max_length=6, description="of each convolution"
    )
    kernel: Literal[1, 3, 5, 7] = Field(3, description="pixels that a convolution looks at, along each axis")
    pool: Literal[1, 2, 3, 4] = Field(
        2, description="pixels along each axis of the squares averaged after each convolution; 1: none are"
    )
    activation: Activation = "tanh"


class Transformer(Part):
    """An encoder: tokens, each with a learned place; blocks of attention and two affine layers, each normalised before
    and added to what comes in; the mean over tokens, normalised, and one affine layer.
    """

    kind: Literal["transformer"]
    tokens: Literal["features", "rows", "patches"] = Field(
        "features",
        description="features: each feature is a token with weights of its own, for tables; rows: the rows of an "
        "image, or of a sequence (examples × steps × features); patches: squares of an image",
    )
    patch: Annotated[Int, Field(gt=0, le=64)] | None = Field(
        None, description="side of a square in pixels, which divides height and width; of tokens 'patches'"
    )
    width: Int = Field(32, gt=0, le=1024, description="numbers that stand for a token")
    heads: Int = Field(2, gt=0, le=16, description="of attention; they divide the width")
    blocks: Int = Field(2, gt=0, le=8)
    hidden: Int = Field(64, gt=0, le=MAX_WIDTH, description="width between the two affine layers of a block")
    activation: Literal["gelu", "relu", "tanh"] = "gelu"

    @model_validator(mode="after")
    def _fits_together(self) -> Transformer:
        if self.width % self.heads:
            raise ValueError(f"heads {self.heads} do not divide width {self.width}; change one of the two")
        if (self.patch is not None) != (self.tokens == "patches"):
            raise ValueError("patch is the side of the squares of tokens 'patches'; give both or neither")
        return self


DenseModel = Annotated[LogisticRegression | MLP, Field(discriminator="kind")]
Model = Annotated[LogisticRegression | MLP | CNN | Transformer, Field(discriminator="kind")]
