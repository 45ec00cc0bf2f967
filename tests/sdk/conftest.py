"""The suite is run by `test_sdk_suites.py`, in a process of its own for each SDK."""

collect_ignore = ["suite"]
