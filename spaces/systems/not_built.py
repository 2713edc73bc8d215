"""The rows of Table 1 that nothing can be built for, each with the reason."""

from .system import System

AHCSRN = System(
    None,
    title="AHCSRN",
    team="SC-CVLAB",
    source="AIM 2020 report; Chen et al. 2020 (ECCV workshops); no public code",
    idea="HCSRN after pruning each convolution's inputs and outputs by themselves",
    basis="not described",
    why_not="it is 'hcsrn' after pruning, and which channels were kept is not public",
)

FSSR = System(
    None,
    title="FSSR",
    team="wozhu",
    source="AIM 2020 report; no public code",
    idea="unknown",
    basis="not described",
    why_not="the report describes nothing of it but its name",
)
