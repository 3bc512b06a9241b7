"""The parts of tools/fuzz.py: cases, their tensors and mutations, the runner, and the listed differences."""
