"""What networks are: architectures and designs, blocks, the network they build, and the space a search moves in."""

from .architecture import Architecture, Block, Frame
from .blocks import BLOCKS
from .design import Design, build
from .errors import InputError, unknown
from .network import Network
from .space import BlockChoices, Space
from .systems import SYSTEMS, System
from .systems.weights import load_published

__all__ = [
    "BLOCKS",
    "SYSTEMS",
    "Architecture",
    "Block",
    "BlockChoices",
    "Design",
    "Frame",
    "InputError",
    "Network",
    "Space",
    "System",
    "build",
    "load_published",
    "unknown",
]
