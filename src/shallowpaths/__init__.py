"""Shallow Paths: why batch normalization makes deep residual networks trainable, and what does the same without it.

The package behind the book of the same name, a reproduction of De and Smith, arXiv 2002.10444. Importing it
loads nothing heavy and changes nothing; import the module that you need, for example ``shallowpaths.networks``.
"""

__version__ = "0.1.0"
