"""What a model costs: counted (MACs, bytes on disk) and measured (time, memory)."""
