"""What Python programs may import of Sovrun: commands, performed, read and resolved.

Within a version of this interface names are added, and none is renamed, removed or given another meaning.
"""

from sovrun.core.errors import SovrunError
from sovrun.sdk.commands import Commands, Outcome, open_commands

__all__ = ["INTERFACE_VERSION", "Commands", "Outcome", "SovrunError", "open_commands"]

INTERFACE_VERSION = 1
