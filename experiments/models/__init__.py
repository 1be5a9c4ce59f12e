"""Models in Flax NNX, each as pure functions of its parameters."""
