"""What a process or a component is doing, under the name by which programs import it."""

from stbass.dataflow.model.status import Status

__all__ = ["Status"]
