"""What can go wrong, as one tree of exceptions under :class:`MemoptError`.

Every message says where (a leaf's path or a hyper-parameter), what came, what was wanted and what to do.
Everything that can be wrong with the input is found before the first array is written.
"""

from __future__ import annotations


class MemoptError(Exception):
    """Base of every error that this library raises on purpose.

    Parameters
    ----------
    where : str
        The leaf's path, the hyper-parameter or the file.
    got, wanted : str
        What came and what was wanted.
    advice : str
        What to do about it, a full sentence.
    """

    def __init__(self, where: str, got: str, wanted: str, advice: str) -> None:
        super().__init__(where, got, wanted, advice)
        self.where, self.got, self.wanted, self.advice = where, got, wanted, advice

    def __str__(self) -> str:
        return f"{self.where}: got {self.got}; wanted {self.wanted}. {self.advice}"


class HyperparameterError(MemoptError, ValueError):
    """A hyper-parameter of a rule, cover, hash family or schedule is outside its range."""


class StructureError(MemoptError, ValueError):
    """The tree of gradients does not have the structure of the parameters, or two paths collide."""


class ShapeError(MemoptError, ValueError):
    """An array has the wrong shape, or the rule cannot serve this shape."""


class DtypeError(MemoptError, TypeError):
    """An array has a dtype that the rule cannot step."""


class RowIndexError(MemoptError, IndexError):
    """A row index of a row-sparse gradient is out of range."""


class AliasError(MemoptError, ValueError):
    """Two leaves share memory, so an in-place step would apply twice."""


class ReadOnlyError(MemoptError, ValueError):
    """A parameter that is to be stepped in place cannot be written."""


class PatternError(MemoptError, ValueError):
    """A group's pattern matches no leaf."""


class NonFiniteError(MemoptError, FloatingPointError):
    """A gradient holds NaN or infinity under ``nonfinite="raise"``; nothing has changed."""


class StabilityError(MemoptError, FloatingPointError):
    """A step that is known to diverge, such as a per-row sketch update with too many rows in a bucket."""


class TornError(MemoptError, RuntimeError):
    """An in-place step was interrupted; parameters and state no longer belong together."""


class BackendError(MemoptError, RuntimeError):
    """A backend that was asked for is not installed, or does not fit where the arrays live."""


class TuningError(MemoptError, ValueError):
    """Measured speeds of kernels cannot be written, read or used on this machine."""


class CorpusError(MemoptError, ValueError):
    """A text corpus for the demonstration is missing, empty, binary or too small."""


class FileFormatError(MemoptError, ValueError):
    """A file (safetensors header, model configuration) is not what it claims to be."""


class CheckpointError(MemoptError, ValueError):
    """A checkpoint cannot be written, read or applied."""


class CheckpointWriteError(CheckpointError):
    """A checkpoint could not be written; the one before it is as it was."""


class CheckpointFormatError(CheckpointError, FileFormatError):
    """A file is damaged, cut short or no checkpoint of a known version."""


class CheckpointMismatchError(CheckpointError):
    """A whole checkpoint does not belong to these parameters or this rule."""


class CheckpointWarning(UserWarning):
    """A part of a rule, such as a function, is not stored; loading needs it again."""
