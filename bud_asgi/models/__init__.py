"""The Models API: the models that a caller can use."""
