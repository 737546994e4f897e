"""The shared code of the training steps; runs only in the TensorFlow worker."""
