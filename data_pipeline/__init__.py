"""From footage to bucketed training batches; works on the host, without JAX."""
