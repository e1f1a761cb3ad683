"""From noise to clips: guidance, segments, and the compiled sampler."""
