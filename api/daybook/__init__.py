"""pg_daybook keeps a log of resource, permission and role changes in PostgreSQL and lets administrators read it.

This module must not import the web application: it is imported by the application that is audited.
"""

from .actors import actor
from .signatures import ActorKey, refusal, sign_with

__all__ = ["ActorKey", "__version__", "actor", "refusal", "sign_with"]
__version__ = "0.1.0"
