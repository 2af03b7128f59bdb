"""Framework-free description of a network. Imports nothing of tfmix but errors."""
