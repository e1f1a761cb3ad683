"""One loop for every stage: loss, optimiser, step, log; takes the model's functions."""
