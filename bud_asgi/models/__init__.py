"""The Models API: which models a caller can use."""
