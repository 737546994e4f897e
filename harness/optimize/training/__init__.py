"""What the training steps share; runs only in the TensorFlow worker."""
