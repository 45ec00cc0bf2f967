"""A simulation of replicas of the gateway, their clients and their upstreams, in virtual time: `make simulate`.

The routing is the gateway's own: `bud_asgi.routing` and `bud_asgi.failover`. Clients, network and upstreams are models.
"""
