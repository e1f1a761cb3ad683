"""Networks as pure functions of parameters and arrays; they know no mesh and no file."""
