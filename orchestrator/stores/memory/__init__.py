"""The default store: all in the memory of one process, behind one lock."""
