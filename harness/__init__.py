"""edge-harness: one model, many TFLite variants, real devices, one table.

The public Python interface is :mod:`harness.api`; the command is ``edge-harness``.
Importing this package imports nothing else.
"""

__version__ = "0.1.0"
