"""The arms of a choice, under the name by which transports import them."""

from stbass._channels.choice import CLAIMED, DECIDING, IDLE, WAITING, Choice
from stbass._channels.transport import Arm

__all__ = ["CLAIMED", "DECIDING", "IDLE", "WAITING", "Arm", "Choice"]
