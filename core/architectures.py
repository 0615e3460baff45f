"""Parameter groups of the models that are more than affine layers in a row: their names and shapes. Loads no JAX.

A group's last axis runs through its units: what its weights lead to. `core.problems.models` computes with them.
"""

from __future__ import annotations

from core.datasets import DatasetInfo
from core.errors import InvalidSpec
from core.hyperparameters import Group
from core.spec.models import CNN, MAX_TOKENS, Transformer

_MAX_PARAMETERS = 100_000_000
_MODEL = ("problem", "model")


def groups_of_model(model: CNN | Transformer, info: DatasetInfo, num_outputs: int) -> tuple[Group, ...]:
    """In the order in which the model reads them.

    Raises:
        InvalidSpec: a model that cannot look at such data.
    """
    groups = (
        _of_cnn(model, info, num_outputs) if isinstance(model, CNN) else _of_transformer(model, info, num_outputs)
    )
    if (total := sum(group.size for group in groups)) > _MAX_PARAMETERS:
        raise InvalidSpec((_MODEL, f"has {total} parameters, more than {_MAX_PARAMETERS}; make it smaller"))
    return groups


def num_tokens(model: Transformer, info: DatasetInfo) -> tuple[int, int]:
    """How many tokens an example has, and how many numbers each of them.

    Raises:
        InvalidSpec: the data cannot be cut into such tokens, or into too many.
    """
    if model.tokens == "features":
        found = info.num_features, 1
    elif model.tokens == "rows":
        found = _image(info, "rows")
    else:
        height, width = _image(info, "patches")
        side = model.patch or 0
        if height % side or width % side:
            raise InvalidSpec(
                (
                    (*_MODEL, "patch"),
                    f"{side} does not divide the {height} × {width} pixels of {info.name}; choose one that does",
                )
            )
        found = height // side * (width // side), side * side
    if found[0] > MAX_TOKENS:
        remedy = {"features": "mlp, or rows or patches of images", "rows": "patches", "patches": "a larger patch"}
        raise InvalidSpec(
            (
                (*_MODEL, "tokens"),
                f"{found[0]} {model.tokens} of {info.name} are more than {MAX_TOKENS} tokens; use "
                f"{remedy[model.tokens]}",
            )
        )
    return found


def sides_of(model: CNN, info: DatasetInfo) -> tuple[tuple[int, int], ...]:
    """Height and width of the images, and after each convolution with its pooling.

    Raises:
        InvalidSpec: the data are no images, or too small for so many poolings.
    """
    sides = [_image(info, "convolutions")]
    for number in range(1, len(model.channels) + 1):
        height, width = (side // model.pool for side in sides[-1])
        if not height or not width:
            raise InvalidSpec(
                (
                    (*_MODEL, "channels"),
                    f"nothing is left of the images of {info.name} ({sides[0][0]} × {sides[0][1]}) after pooling "
                    f"number {number}; use fewer channels or a smaller pool",
                )
            )
        sides.append((height, width))
    return tuple(sides)


def _image(info: DatasetInfo, what: str) -> tuple[int, int]:
    if info.image is None:
        raise InvalidSpec(
            (
                _MODEL,
                f"{what} need data with height and width, and {info.name} has {info.num_features} features in a row; "
                "upload examples × height × width, or use mlp, or a transformer of features",
            )
        )
    return info.image


def _of_cnn(model: CNN, info: DatasetInfo, num_outputs: int) -> tuple[Group, ...]:
    groups: list[Group] = []
    before = 1
    for number, channels in enumerate(model.channels, start=1):
        groups += _pair(f"convolution_{number}", (model.kernel, model.kernel, before, channels))
        before = channels
    height, width = sides_of(model, info)[-1]
    return (*groups, *_pair("output", (height * width * before, num_outputs)))


def _of_transformer(model: Transformer, info: DatasetInfo, num_outputs: int) -> tuple[Group, ...]:
    tokens, numbers = num_tokens(model, info)
    width, hidden = model.width, model.hidden
    weights = (tokens, width) if model.tokens == "features" else (numbers, width)
    # the bias of each token is its place
    groups = [Group("embedding.weights", weights), Group("embedding.biases", (tokens, width))]
    for number in range(1, model.blocks + 1):
        block = f"block_{number}"
        groups += _pair(f"{block}.norm_of_attention", (width,))
        groups += _pair(f"{block}.query", (width, width))
        groups.append(Group(f"{block}.key.weights", (width, width)))  # softmax would not see its biases
        groups += _pair(f"{block}.value", (width, width))
        groups += _pair(f"{block}.attention", (width, width))
        groups += _pair(f"{block}.norm_of_hidden", (width,))
        groups += _pair(f"{block}.hidden", (width, hidden))
        groups += _pair(f"{block}.back", (hidden, width))
    return (*groups, *_pair("norm", (width,)), *_pair("output", (width, num_outputs)))


def _pair(name: str, shape: tuple[int, ...]) -> list[Group]:
    return [Group(f"{name}.weights", shape), Group(f"{name}.biases", shape[-1:])]
