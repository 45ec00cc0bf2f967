"""Authentication by the tokens of OpenID Connect and OAuth issuers (RFC 7519, RFC 9068)."""

from bud_asgi.auth.jwt.backend import Jwt, check_issuers
from bud_asgi.auth.jwt.issuer import Grant, Issuer
from bud_asgi.auth.jwt.keys import IssuerUnavailable, JwksTiming

__all__ = ["Grant", "Issuer", "IssuerUnavailable", "JwksTiming", "Jwt", "check_issuers"]
