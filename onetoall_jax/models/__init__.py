"""Networks as pure functions of parameters; they know no mesh and no file."""
