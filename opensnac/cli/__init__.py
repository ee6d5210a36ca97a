"""The command line: parse, call, print. Commands import torch only where they need it."""

from opensnac.cli import coding, corpus, exporting, measuring, serving, training
from opensnac.cli.app import app, main

__all__ = ["app", "coding", "corpus", "exporting", "main", "measuring", "serving", "training"]
