"""ParetoSR finds, trains and exports efficient x4 super-resolution networks; its folders are the subpackages."""
