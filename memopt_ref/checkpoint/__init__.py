"""Checkpoints: the whole state of an optimizer in one file that is whole or refused.

The layout is that of safetensors, which can read it; every byte is under a checksum; a crash at any moment
of a save leaves the old file or the new one. Nothing is pickled, and nothing that is read is executed, opened
or believed before it is checked.

``layout`` says where the bytes are, ``header`` reads untrusted ones, ``values`` turns rules into JSON and
back, ``options`` is the metadata, ``schema`` compares a file with what ``slots`` asks for, ``files`` replaces
a file safely, ``store`` puts these together.
"""

from .store import Contents, inspect, verify

__all__ = ["Contents", "inspect", "verify"]
