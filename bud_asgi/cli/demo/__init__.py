"""The demonstration, which needs the extra `demo`.

bud-asgi demo              with stand-ins for all three providers: no key, no network, no cost
bud-asgi demo --keep       the same, and keep it running for your own requests
bud-asgi demo --real       with api.anthropic.com and ANTHROPIC_API_KEY: this costs money
"""
