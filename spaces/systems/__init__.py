"""The published networks by name: the 27 rows of the AIM 2020 challenge, IMDN's paper version, HCSRN unpruned.

Beside them stand the baselines of later challenges.

A new one: an architecture goes to `architectures.py`; a module of its own gets a file here, which holds its `System`.
"""

from . import (
    amaf_net,
    architectures,
    cet_cvlab,
    cfn,
    efdn,
    esrnet,
    gcsr,
    hcsrn,
    idlesr,
    ipcv_iitm,
    isrresdnet,
    larvanet,
    lfn,
    lmsr,
    maffsrn,
    not_built,
    pfsnet,
    rlfn,
    sam_sr_lite,
    span,
    spsr,
    srrn,
    uestc_medialab,
    xmulab,
)
from .system import System

SYSTEMS: dict[str, System] = {
    "msrresnet": architectures.MSRRESNET,
    "imdn": architectures.IMDN,
    "imdn_paper": architectures.IMDN_PAPER,
    "rfdn": architectures.RFDN,
    "fimdn": architectures.FIMDN,
    "uestc_medialab": uestc_medialab.SYSTEM,
    "pan": architectures.PAN,
    "latticenet": architectures.LATTICENET,
    "ipcv_iitm": ipcv_iitm.SYSTEM,
    "gcsr": gcsr.SYSTEM,
    "pfsnet": pfsnet.SYSTEM,
    "maffsrn": maffsrn.SYSTEM,
    "xmulab": xmulab.SYSTEM,
    "larvanet": larvanet.SYSTEM,
    "lmsr": lmsr.SYSTEM,
    "idlesr": idlesr.SYSTEM,
    "hcsrn": hcsrn.SYSTEM,
    "ahcsrn": not_built.AHCSRN,
    "esrnet": esrnet.SYSTEM,
    "sam_sr_lite": sam_sr_lite.SYSTEM,
    "neptuneai": architectures.NEPTUNEAI,
    "cfn": cfn.SYSTEM,
    "cet_cvlab": cet_cvlab.SYSTEM,
    "fssr": not_built.FSSR,
    "srrn": srrn.SYSTEM,
    "amaf_net": amaf_net.SYSTEM,
    "lfn": lfn.SYSTEM,
    "spsr": spsr.SYSTEM,
    "isrresdnet": isrresdnet.SYSTEM,
}

# The baselines of the NTIRE efficient super-resolution challenges of 2024, 2025 and 2026, which AIM 2020 did not know.
NTIRE_BASELINES: dict[str, System] = {
    "rlfn": rlfn.SYSTEM,
    "efdn": efdn.SYSTEM,
    "span": span.SYSTEM,
}

# All that can be asked for by name.
NETWORKS: dict[str, System] = {**SYSTEMS, **NTIRE_BASELINES}
BUILDABLE = tuple(name for name, system in NETWORKS.items() if system.network is not None)
