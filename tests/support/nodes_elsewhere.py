"""A process of a workflow that no worker of the tests is told of."""

from __future__ import annotations

from tests.support.nodes import Node


class Stranger(Node):
    """A stranger."""
