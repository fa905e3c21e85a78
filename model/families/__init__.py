"""The families of models: one file each, found by its name. `family` has what they share, README how to add one."""
