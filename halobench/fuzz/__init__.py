"""Random problems for backends: drawn, judged in worker processes, shrunk where a backend is wrong."""
