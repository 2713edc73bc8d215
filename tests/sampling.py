"""The samplers that tests are parametrised over; of a guest that is not installed here they are skipped, and say so."""

from importlib.util import find_spec

import pytest

from paretosr.search.nni_samplers import NEEDS
from paretosr.search.samplers import SAMPLERS

without_nni = pytest.mark.skipif(
    find_spec("nni") is None, reason="nni is not installed here; tests/test_nni_samplers.py runs this where it is"
)
EVERY_SAMPLER = [pytest.param(name, marks=without_nni) if name in NEEDS else name for name in SAMPLERS]
