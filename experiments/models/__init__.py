"""Models in Flax NNX, each as two pure functions."""
