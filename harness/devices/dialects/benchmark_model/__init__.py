"""Measure with the vendor's own program `benchmark_model`, on devices without Python.

Two programs have that name: TensorFlow Lite's and LiteRT's. The user provides the program in a
bundle, a folder with the program and its libraries (docs/phone_runner.md).
"""
