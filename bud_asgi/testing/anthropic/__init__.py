"""A stand-in for Anthropic's own service: it checks requests and answers them as the service does."""
