"""What networks are: architectures and designs, blocks, the network they build, and the space a search moves in."""

from .architecture import Architecture, Block, Frame
from .blocks import BLOCKS
from .design import Design, Published, build, deployed, published, published_architecture, read_design
from .errors import InputError, unknown
from .forms import inference_form
from .network import Network
from .space import BlockChoices, Space
from .systems import BUILDABLE, NETWORKS, SYSTEMS
from .systems.system import System
from .systems.weights import load_published

__all__ = [
    "BLOCKS",
    "BUILDABLE",
    "NETWORKS",
    "SYSTEMS",
    "Architecture",
    "Block",
    "BlockChoices",
    "Design",
    "Frame",
    "InputError",
    "Network",
    "Published",
    "Space",
    "System",
    "build",
    "deployed",
    "inference_form",
    "load_published",
    "published",
    "published_architecture",
    "read_design",
    "unknown",
]
