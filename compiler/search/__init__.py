"""Many plans out of one: `edgec sweep` makes all of them, `edgec tune` looks for the best."""
