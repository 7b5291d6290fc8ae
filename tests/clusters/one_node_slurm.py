"""A Slurm of one node in a folder of its own, from Debian's packages `slurm-wlm` and `munge`.

No accounting database, as on many small clusters. Nothing of the system's own Slurm is touched:
configuration, keys, ports and logs are in the folder. Root is needed, as Slurm starts jobs.
"""

import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MEMORY_MB = 6000
COMMANDS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol")
_CONFIG = """
ClusterName=check
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
CredType=cred/munge
SlurmctldPort={controller}
SlurmdPort={node}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=2
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=sched_interval=2,bf_interval=2
JobRequeue=1
KillWait=5
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} State=UNKNOWN
PartitionName=short Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def missing_commands() -> list[str]:
    """Those of Slurm and munge that this machine lacks."""
    return [name for name in COMMANDS if not _found(name)]


@contextmanager
def one_node_slurm(folder: Path) -> Iterator[dict[str, str]]:
    """A running cluster; inside the `with`, the variables that its commands need."""
    folder.mkdir(parents=True)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o600)
    host = socket.gethostname().partition(".")[0]
    config = folder / "slurm.conf"
    values = {"folder": folder, "host": host, "controller": _port(), "node": _port()}
    config.write_text(_CONFIG.format(**values, cpus=os.cpu_count(), memory=MEMORY_MB))
    variables = {**os.environ, "SLURM_CONF": str(config)}
    daemons = [
        [
            *("munged", "--foreground", "--force", f"--socket={folder}/munge.socket"),
            *(f"--key-file={key}", f"--pid-file={folder}/munge.pid"),
            *(f"--seed-file={folder}/munge.seed", f"--log-file={folder}/munge.log"),
        ],
        ["slurmctld", "-D", "-f", str(config)],
        ["slurmd", "-D", "-f", str(config)],
    ]
    started: list[subprocess.Popen[bytes]] = []
    try:
        for command in daemons:
            with (folder / f"{command[0]}.out").open("wb") as out:
                place = [_found(command[0]), *command[1:]]
                started.append(subprocess.Popen(place, env=variables, stdout=out, stderr=out))
            time.sleep(2)
        _wait_for_node(variables, host)
        yield variables
    finally:
        for daemon in reversed(started):
            daemon.terminate()
            daemon.wait(timeout=30)


def _found(command: str) -> str:
    return shutil.which(command) or shutil.which(command, path="/usr/sbin:/sbin") or ""


def _port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _wait_for_node(variables: dict[str, str], host: str) -> None:
    for _ in range(60):
        asked = ["sinfo", "--noheader", "--format=%T"]
        done = subprocess.run(asked, env=variables, capture_output=True, text=True, check=False)
        if done.stdout.strip() in ("idle", "mixed", "allocated"):
            return
        time.sleep(1)
    raise SystemExit(f"Slurm did not start: {done.stdout} {done.stderr}; see its logs")
