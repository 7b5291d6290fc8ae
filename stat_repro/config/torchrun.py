"""What torchrun tells the processes that it starts."""

import os

from stat_repro.config.checks import ConfigError

_VARIABLES = ("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT")


def several_processes() -> bool:
    """Whether torchrun, or something that sets its variables, started several processes.

    Raises:
        ConfigError: Some of the variables are missing, or are no numbers.
    """
    values = {name: os.environ.get(name, "") for name in _VARIABLES}
    size = values["WORLD_SIZE"] or "1"
    if size.isdecimal() and int(size) <= 1:
        return False
    for name, value in values.items():
        if not value or (name != "MASTER_ADDR" and not value.isdecimal()):
            raise ConfigError(
                f"{name}: expected what torchrun sets beside WORLD_SIZE={size}; got {value!r}; "
                "choose torchrun, or unset WORLD_SIZE"
            )
    return True
