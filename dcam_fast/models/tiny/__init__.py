"""The embedded model: scenes, architecture, words and pixels, training, accuracy, and its adapter."""
