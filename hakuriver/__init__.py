"""The shared language of HakuRiver: what clients and daemons both speak."""

__version__ = "0.4.0"

WIRE_VERSION = 1
"""Version of both HTTP APIs; sent with every request, checked by every daemon."""
