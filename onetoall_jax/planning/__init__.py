"""What a run needs before there is a machine for it: memory, time, communication."""
