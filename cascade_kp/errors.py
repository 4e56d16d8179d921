"""The exceptions of cascade_kp: one family, so that one ``except`` catches what the library refuses.

Every message says what was expected and what came. The classes also derive from the built-in
exception a caller would think of first, so that code that knows nothing of this family still works.
"""

from __future__ import annotations

__all__ = [
    "CascadeError",
    "ConfigError",
    "DataError",
    "HubError",
    "ImageError",
    "InputError",
    "ModelError",
    "SchemeError",
    "StoreError",
]

_LONGEST = 8000  # letters of a message: it may name two files, and a path has up to 4,096


class CascadeError(Exception):
    """Base of everything that cascade_kp raises on purpose."""

    def __str__(self) -> str:
        """The message; what a hostile file put into it is cut short in the middle."""
        text = super().__str__()
        return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 4 :]}"


class InputError(CascadeError, ValueError):
    """An argument (boxes, an option, an array) that cannot be used."""


class ImageError(InputError):
    """A picture that cannot be read or has no usable pixels."""


class DataError(CascadeError, ValueError):
    """An annotation file or a data folder that is broken; the message names file and line."""


class SchemeError(CascadeError, ValueError):
    """A keypoint scheme that is unknown or contradicts itself."""


class ConfigError(CascadeError, ValueError):
    """A model configuration or recipe with a wrong key, type or value."""


class ModelError(CascadeError, RuntimeError):
    """A model file that is missing, damaged, of another format, or does not fit its configuration."""


class HubError(CascadeError, RuntimeError):
    """A model hub that cannot be reached, refuses, or gives something else than was asked for."""


class StoreError(CascadeError, OSError):
    """A folder or an object store that cannot be read or written just now, or that another run holds."""
