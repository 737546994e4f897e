"""Read and rewrite .tflite files, without TensorFlow."""
