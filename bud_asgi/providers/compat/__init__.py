"""Adapts Messages requests to clouds that support only part of the API.

Beta flags and fields, edits inside fields, cache breakpoints, model ids.
"""
