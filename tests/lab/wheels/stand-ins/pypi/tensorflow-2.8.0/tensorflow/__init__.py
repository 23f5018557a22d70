"""SIMULATED TensorFlow 2.8.0: there to be refused where a recipe asks for another version than its base."""

__version__ = "2.8.0"
