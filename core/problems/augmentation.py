"""Images moved at random: shifted, turned, and with noise; differentiable with respect to how far."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates


def augment(images: jax.Array, far: jax.Array, key: jax.Array) -> jax.Array:
    """Each image moved by a draw of its own.

    Args:
        images: [n, side * side], 0 where there is nothing.
        far: standard deviations of shift (pixels), rotation (degrees) and noise (pixel value), [3].
        key: of the draw.
    """
    count, side = len(images), math.isqrt(images.shape[-1])
    shift, rotation, noise = far.astype(images.dtype)
    for_shift, for_rotation, for_noise = jax.random.split(key, 3)
    shifts = shift * jax.random.normal(for_shift, (count, 2), images.dtype)
    angles = jnp.deg2rad(rotation) * jax.random.normal(for_rotation, (count,), images.dtype)
    moved = jax.vmap(_moved)(images.reshape(count, side, side), shifts, angles).reshape(images.shape)
    return moved + noise * jax.random.normal(for_noise, images.shape, images.dtype)


def _moved(image: jax.Array, shift: jax.Array, angle: jax.Array) -> jax.Array:
    """Image [side, side] turned about its centre, then shifted; between pixels by bilinear interpolation."""
    centre = (len(image) - 1) / 2
    along = jnp.arange(len(image), dtype=image.dtype) - centre
    rows, columns = jnp.meshgrid(along, along, indexing="ij")
    rows, columns = rows - shift[0], columns - shift[1]
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    places = [cosine * rows + sine * columns + centre, cosine * columns - sine * rows + centre]
    return map_coordinates(image, places, order=1)
