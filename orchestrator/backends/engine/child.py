"""The engine's own process: llama.cpp serves one model on loopback, in OpenAI's protocol.

Run as a script, and imports nothing of the package. Its first line of input is the key that
callers must show. It prints one line of JSON: the address once the model is loaded, or why it
can't be. It ends when its input does, which is when its parent ends, however that ends.
"""

import argparse
import json
import os
import signal
import sys

from orchestrator.parent import end_with_parent

try:
    import xllamacpp
except ImportError as error:
    xllamacpp = None
    missing = str(error)

# Prompt tokens a step. Between two steps a cancelled request is let go of, and others go on;
# llama.cpp's own 2048 is seconds on a small machine.
_BATCH = 256
_PROMPT_CACHE_MIB = 256


def main() -> int:
    """Serve until the input ends; return the exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--slots", type=int, required=True)
    parser.add_argument("--context", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    options = parser.parse_args()
    _end_with_parent()
    key = sys.stdin.readline().strip()
    if not key or os.getppid() != options.parent:
        # The parent ended before it was noticed: there is nobody to serve.
        return 1
    if xllamacpp is None:
        return _say(missing=missing)
    try:
        server = xllamacpp.Server(_parameters(options, key))
    except (RuntimeError, MemoryError) as error:
        code = _say(error=str(error))
        # llama.cpp tells the reason from a thread of its own: who waits for that ends the input.
        sys.stdin.read()
        return code
    _say(address=server.listening_address)
    sys.stdin.read()
    return 0


def _end_with_parent() -> None:
    """Leave signals to the parent, which may still drain, and end with it.

    While a model is loaded, no other thread runs, so the kernel has to see to that.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    end_with_parent(signal.SIGKILL)


def _parameters(options: argparse.Namespace, key: str) -> "xllamacpp.CommonParams":
    params = xllamacpp.CommonParams()
    params.model.path = options.model
    params.n_parallel = options.slots
    # llama.cpp shares this out among the slots.
    params.n_ctx = options.context * options.slots
    params.n_batch = params.n_ubatch = _BATCH
    # One processor is left to the service itself.
    threads = max(1, _processors() - 1)
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    # A thread for each open stream, and some for those that just end.
    params.n_threads_http = options.slots * 2 + 8
    params.cache_ram_mib = _PROMPT_CACHE_MIB
    # What is set is what is used; and a model that can't be loaded isn't tried twice.
    params.fit_params = False
    params.api_keys = [key]
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    # Its defaults let any web page ask.
    params.cors_origins = "http://127.0.0.1"
    params.ui = False
    # Errors alone.
    params.verbosity = 1
    return params


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _say(**line: str) -> int:
    print(json.dumps(line), flush=True)
    return 0 if "address" in line else 1


if __name__ == "__main__":
    code = main()
    if code:
        # llama.cpp tells the reason from a thread of its own, which may not have come to it.
        sys.exit(code)
    # Past the teardown of threads in C++: there is nothing to save.
    os._exit(code)
