"""Fits pictures, clips and poses to each other and to the sizes of the model."""
