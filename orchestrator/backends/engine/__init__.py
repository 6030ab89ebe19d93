"""A local model: where its file comes from, and the llama.cpp process that runs it."""
