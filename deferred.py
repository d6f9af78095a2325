"""TensorFlow, imported when it is first used: a module that imports it from here can be used before, in milliseconds.

    from deferred import tensorflow as tf

For the modules that `preflight` needs. Those that define subclasses of TensorFlow's classes import it directly.
"""
from __future__ import annotations

import importlib
import sys

import files


class _Deferred:
    def __init__(self, name: str):
        self._name, self._imported = name, False

    def __getattr__(self, attribute: str):
        if not self._imported:
            with files.blocked_signals():  # half an import cannot be repeated
                importlib.import_module(self._name)  # also waits for a thread that is importing it
            self._imported = True
        return getattr(sys.modules[self._name], attribute)


tensorflow = _Deferred("tensorflow")
