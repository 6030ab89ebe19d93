"""The composition root: settings in, the parts of a process out. Only here are classes named."""
